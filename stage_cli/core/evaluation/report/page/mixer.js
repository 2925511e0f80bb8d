// A mixer: the tracks of a card on one clock, each of which can be heard alone or left out while all go on.

let audioContext = null; // made at the first play: browsers want a gesture before

function decodedSound(clipIndex) {
  const clip = data.clips[clipIndex];
  clip.decoded ??= audioContext.decodeAudioData(soundBytes(clipIndex).buffer);
  return clip.decoded;
}

class Mixer {
  /**
   * @param card whose tracks are mixed: it shows the position
   * @param names of the tracks, in the order of the keys 1 to 4
   */
  constructor(card, names) {
    Object.assign(this, { card, names, sources: [], gains: new Map(), solo: null, muted: new Set(), isPlaying: false });
    // The mix holds context and stem already.
    if (names.includes("Mix") && names.length > 1) this.muted.add("Mix");
    if (names.includes("Target") && names.includes("Generated")) this.muted.add("Target");
    this.button = element("button", { type: "button", class: "play", "aria-pressed": "false" });
    this.button.setAttribute("aria-label", `Play the tracks of ${card.label} together`);
    this.button.addEventListener("click", () => this.toggle());
    this.root = element("div", { class: "mixer", role: "group", "aria-label": `Mixer, ${card.label}` }, this.button);
    this.switches = new Map();
    names.forEach((name, place) => this.root.append(this.makeSwitches(name, place + 1)));
    this.show();
  }

  makeSwitches(name, key) {
    const solo = element("button", { type: "button", class: "switch", title: `Hear ${name} alone (${key})` }, "S");
    const mute = element("button", { type: "button", class: "switch", title: `Leave ${name} out` }, "M");
    solo.setAttribute("aria-label", `${name} alone`);
    mute.setAttribute("aria-label", `${name} out`);
    solo.addEventListener("click", () => this.hearAlone(name));
    mute.addEventListener("click", () => this.leaveOut(name));
    this.switches.set(name, [solo, mute]);
    return element("span", { class: "strip-switches" }, element("span", {}, `${key} ${name}`), solo, mute);
  }

  hearAlone(name) {
    this.solo = this.solo === name ? null : name;
    this.show();
  }

  leaveOut(name) {
    if (!this.muted.delete(name)) this.muted.add(name);
    this.show();
  }

  isHeard(name) {
    return this.solo === null ? !this.muted.has(name) : this.solo === name;
  }

  show() {
    for (const [name, [solo, mute]] of this.switches) {
      solo.setAttribute("aria-pressed", String(this.solo === name));
      mute.setAttribute("aria-pressed", String(this.muted.has(name)));
      const gain = this.gains.get(name);
      // A step of some milliseconds: none would click.
      if (gain) gain.gain.setTargetAtTime(this.isHeard(name) ? 1 : 0, audioContext.currentTime, 0.005);
    }
  }

  async toggle() {
    if (this.isPlaying) return this.pause();
    sounding?.pause();
    audioContext ??= new AudioContext();
    await audioContext.resume();
    const buffers = await Promise.all(this.names.map((name) => decodedSound(this.card.clips[name])));
    const longest = Math.max(...buffers.map((buffer) => buffer.duration));
    const from = this.card.position >= longest - 0.05 ? 0 : this.card.position;
    const start = audioContext.currentTime + 0.05;
    this.origin = start - from;
    this.sources = buffers.map((buffer, place) => {
      const source = new AudioBufferSourceNode(audioContext, { buffer });
      const gain = new GainNode(audioContext, { gain: this.isHeard(this.names[place]) ? 1 : 0 });
      this.gains.set(this.names[place], gain);
      source.connect(gain).connect(audioContext.destination);
      source.start(start, Math.min(from, buffer.duration));
      return source;
    });
    sounding = this;
    this.isPlaying = true;
    this.longest = longest;
    this.button.setAttribute("aria-pressed", "true");
    requestAnimationFrame(() => this.follow());
  }

  follow() {
    if (!this.isPlaying) return;
    const at = audioContext.currentTime - this.origin;
    if (at >= this.longest) {
      this.pause();
      this.card.moveTo(0);
      return;
    }
    this.card.position = Math.max(0, at);
    this.card.showPosition();
    requestAnimationFrame(() => this.follow());
  }

  pause() {
    for (const source of this.sources) source.stop();
    this.sources = [];
    this.gains.clear();
    this.isPlaying = false;
    this.button.setAttribute("aria-pressed", "false");
    if (sounding === this) sounding = null;
  }

  /** Goes on from the card's position. */
  async place() {
    if (!this.isPlaying) return;
    this.pause();
    await this.toggle();
  }
}
