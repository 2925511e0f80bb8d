// A player: a button, and a picture of the clip (waveform, spectrogram, beats) with a playhead that can be moved.

const SEEK_SECONDS = 1;
const WAVE_SHARE = 0.4; // of the picture's height; the spectrogram has the rest

let sounding = null; // the one player, or mixer, that sounds

const soundAddresses = new Map();

function soundBytes(clip) {
  const text = atob(document.getElementById(`sound-${clip}`).textContent);
  return Uint8Array.from(text, (letter) => letter.charCodeAt(0));
}

/** The address of a clip's sound. Made at the first play: base64 of all clips would fill a phone's memory. */
function soundAddress(clip) {
  if (!soundAddresses.has(clip)) {
    soundAddresses.set(clip, URL.createObjectURL(new Blob([soundBytes(clip)], { type: "audio/mpeg" })));
  }
  return soundAddresses.get(clip);
}

function inkOf(name) {
  return getComputedStyle(document.getElementById(`ink-${name}`)).color;
}

function channelsOf(colour) {
  return colour.match(/[\d.]+/g).slice(0, 3).map(Number);
}

let inks = null;

/** Colours of the theme, and a palette of 256 for spectrograms. */
function themeInks() {
  if (inks) return inks;
  const stops = ["dark", "middle", "bright"].map((name) => channelsOf(inkOf(name)));
  const palette = Array.from({ length: 256 }, (_, grey) => {
    const place = (grey / 255) * (stops.length - 1);
    const below = Math.min(Math.floor(place), stops.length - 2);
    return stops[below].map((value, channel) => value + (stops[below + 1][channel] - value) * (place - below));
  });
  inks = { wave: inkOf("wave"), beat: inkOf("beat"), downbeat: inkOf("downbeat"), palette };
  return inks;
}

document.addEventListener("themechange", () => (inks = null));

/** Colours a grey picture with the theme's palette. */
async function colourPicture(clip) {
  const image = new Image();
  image.src = `data:image/webp;base64,${clip.picture}`;
  await image.decode();
  const canvas = element("canvas", { width: image.width, height: image.height });
  const context = canvas.getContext("2d");
  context.drawImage(image, 0, 0);
  const pixels = context.getImageData(0, 0, image.width, image.height);
  const { palette } = themeInks();
  for (let at = 0; at < pixels.data.length; at += 4) pixels.data.set(palette[pixels.data[at]], at);
  context.putImageData(pixels, 0, 0);
  return canvas;
}

class Player {
  /**
   * @param card what holds the players of one item: they share its position in seconds
   * @param name "Generated", …
   * @param clipIndex of data.clips
   */
  constructor(card, name, clipIndex) {
    Object.assign(this, { card, name, clipIndex, clip: data.clips[clipIndex], item: card.item, isPlaced: false });
    this.button = element("button", { type: "button", class: "play", "aria-pressed": "false" });
    this.time = element("span", { class: "time" });
    this.canvas = element("canvas", { "aria-hidden": "true" });
    this.playhead = element("div", { class: "playhead" });
    this.view = element("div", { class: "view", role: "slider", tabindex: "0" }, this.canvas, this.playhead);
    this.audio = element("audio", { preload: "none" });
    this.download = element("a", { class: "download", href: "#", download: `${card.fileName(name)}.mp3` }, "MP3");
    this.download.setAttribute("aria-label", `Download ${name}, ${card.label}`);
    const head = element("div", { class: "track-head" }, this.button, element("span", {}, name), this.time, this.download);
    const label = `${name}, ${card.label}`;
    this.root = element("div", { class: "track", role: "group", "aria-label": label }, head, this.view, this.audio);
    this.button.setAttribute("aria-label", `Play ${label}`);
    this.view.setAttribute("aria-label", `Position in ${label}`);
    this.view.setAttribute("aria-valuemin", "0");
    this.view.setAttribute("aria-valuemax", this.clip.seconds.toFixed(1));
    this.listen();
    this.showPosition();
  }

  listen() {
    this.button.addEventListener("click", () => this.toggle());
    this.download.addEventListener("click", () => (this.download.href = soundAddress(this.clipIndex)));
    this.view.addEventListener("pointerdown", (event) => {
      if (event.button === 0) this.seekTo(event);
    });
    this.view.addEventListener("pointermove", (event) => {
      if (event.buttons === 1 && event.pointerType === "mouse") this.seekTo(event);
    });
    this.view.addEventListener("keydown", (event) => this.key(event));
    this.audio.addEventListener("play", () => this.started());
    this.audio.addEventListener("pause", () => this.stopped());
    this.audio.addEventListener("seeked", () => this.follow());
    this.audio.addEventListener("ended", () => this.card.moveTo(0));
    this.audio.addEventListener("error", () => (this.time.textContent = "cannot be played by this browser"));
  }

  seekTo(event) {
    const box = this.view.getBoundingClientRect();
    this.card.moveTo(((event.clientX - box.left) / box.width) * this.clip.seconds);
  }

  key(event) {
    if (event.ctrlKey || event.altKey || event.metaKey) return;
    const steps = { ArrowLeft: -SEEK_SECONDS, ArrowDown: -SEEK_SECONDS, ArrowRight: SEEK_SECONDS, ArrowUp: SEEK_SECONDS };
    if (event.key === " " || event.key === "Enter") this.toggle();
    else if (event.key in steps) this.card.moveTo(this.card.position + steps[event.key]);
    else if (event.key === "Home") this.card.moveTo(0);
    else if (event.key === "End") this.card.moveTo(this.clip.seconds);
    else return;
    event.preventDefault();
  }

  toggle() {
    if (!this.audio.paused) {
      this.audio.pause();
      return;
    }
    sounding?.pause();
    if (!this.audio.src) {
      this.audio.src = soundAddress(this.clipIndex);
      this.audio.addEventListener("loadedmetadata", () => this.place(), { once: true });
    } else {
      this.place();
    }
    this.audio.play().catch((error) => {
      // Pausing again before the sound has begun is no failure.
      if (error.name !== "AbortError") this.time.textContent = "cannot be played by this browser";
    });
  }

  pause() {
    this.audio.pause();
  }

  /** Moves the sound to the card's position. */
  place() {
    const at = Math.min(this.card.position, this.clip.seconds);
    this.audio.currentTime = at >= this.clip.seconds - 0.05 ? 0 : at;
    this.isPlaced = true;
  }

  started() {
    if (sounding && sounding !== this) sounding.pause();
    sounding = this;
    this.button.setAttribute("aria-pressed", "true");
    const step = () => {
      if (this.audio.paused) return;
      this.follow();
      requestAnimationFrame(step);
    };
    requestAnimationFrame(step);
  }

  stopped() {
    this.button.setAttribute("aria-pressed", "false");
    if (sounding === this) sounding = null;
  }

  /** The card's playheads follow the sound. */
  follow() {
    // Before it is placed, the sound stands at its start, where the card must not follow it.
    if (this.isPlaced && !this.audio.seeking && (!this.audio.paused || sounding === this)) {
      this.card.position = this.audio.currentTime;
      this.card.showPosition();
    }
  }

  showPosition() {
    const at = Math.min(this.card.position, this.clip.seconds);
    this.playhead.style.left = `${(100 * at) / this.clip.seconds}%`;
    const text = `${formatTime(at)} / ${formatTime(this.clip.seconds)}`;
    if (this.time.textContent === text) return; // a screen reader need not hear of every frame
    this.time.textContent = text;
    this.view.setAttribute("aria-valuenow", at.toFixed(1));
    this.view.setAttribute("aria-valuetext", `${formatTime(at)} of ${formatTime(this.clip.seconds)}`);
  }

  async draw() {
    const picture = await colourPicture(this.clip).catch(() => null); // the waveform is worth showing alone
    const scale = Math.min(devicePixelRatio || 1, 2);
    const { clientWidth: width, clientHeight: height } = this.view;
    if (!width || !this.card.isNear) return;
    this.canvas.width = width * scale;
    this.canvas.height = height * scale;
    const context = this.canvas.getContext("2d");
    context.scale(scale, scale);
    const waveHeight = Math.round(height * WAVE_SHARE);
    if (picture) context.drawImage(picture, 0, waveHeight + 1, width, height - waveHeight - 1);
    this.drawWave(context, width, waveHeight);
    this.drawBeats(context, width, height);
  }

  drawWave(context, width, height) {
    const ends = Int8Array.from(atob(this.clip.outline), (letter) => letter.charCodeAt(0));
    const columns = ends.length / 2;
    const y = (value) => (height / 2) * (1 - (value / 127) * 0.94);
    context.fillStyle = themeInks().wave;
    context.beginPath();
    for (let column = 0; column < columns; column += 1) context.lineTo((column * width) / (columns - 1), y(ends[2 * column + 1]) - 0.4);
    for (let column = columns - 1; column >= 0; column -= 1) context.lineTo((column * width) / (columns - 1), y(ends[2 * column]) + 0.4);
    context.fill();
  }

  drawBeats(context, width, height) {
    const bars = new Set(this.item.downbeats);
    for (const beat of this.item.beats) {
      if (beat > this.clip.seconds) break;
      context.fillStyle = bars.has(beat) ? themeInks().downbeat : themeInks().beat;
      const thickness = bars.has(beat) ? 2 : 1;
      context.fillRect((beat / this.clip.seconds) * width - thickness / 2, 0, thickness, height);
    }
  }

  /** Gives the picture's memory back. */
  erase() {
    this.canvas.width = this.canvas.height = 0;
  }
}
