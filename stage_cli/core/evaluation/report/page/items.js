// Items: a card for each output of a system, with its numbers and players; sorted and filtered.

const cardsPlace = document.getElementById("cards");
const sortChoice = document.getElementById("sort");
const orderButton = document.getElementById("order");
const systemChoice = document.getElementById("system");
const contextChoice = document.getElementById("context");

class Card {
  constructor(item, output) {
    Object.assign(this, { item, output, position: 0, players: [], isNear: false });
    this.label = `${item.title}, ${systemTitle(output.system)}`;
    this.root = element("article", { class: `card ${systemClass(output.system)}`, tabindex: "-1" });
    this.root.card = this;
    this.root.setAttribute("aria-label", this.label);
    this.root.dataset.item = item.id;
    this.root.dataset.system = output.system;
    this.clips = {
      Generated: output.clips.generated,
      Mix: output.clips.mix,
      Context: item.clips.context,
      Target: item.clips.target,
    };
    const count = Object.values(this.clips).filter((clipIndex) => clipIndex !== null).length;
    this.tracks = element("div", { class: "tracks", style: `--tracks:${count};--pairs:${Math.ceil(count / 2)}` });
    this.root.append(this.makeHead(), this.makeScores());
    if (output.error) this.root.append(element("p", { class: "error" }, output.error));
    const names = Object.keys(this.clips).filter((name) => this.clips[name] !== null && !data.clips[this.clips[name]].error);
    this.mixer = names.length > 1 ? new Mixer(this, names) : null;
    if (this.mixer) this.root.append(this.mixer.root);
    this.root.append(this.tracks);
    this.root.addEventListener("focusin", () => (currentCard = this));
    this.root.addEventListener("pointerdown", () => (currentCard = this));
  }

  /** The beginning of the names of downloaded files. */
  fileName(track) {
    return `${this.item.id}-${systemTitle(this.output.system)}-${track}`.replace(/[^\w.-]+/g, "_").toLowerCase();
  }

  isSounding() {
    return sounding !== null && (sounding === this.mixer || this.players.includes(sounding));
  }

  makeHead() {
    const { item, output } = this;
    const about = [
      item.stems.length ? `${item.context} of ${item.stems.join(", ").replaceAll("_", " ")}` : item.context,
      `${formatTime(item.start)} – ${formatTime(item.start + item.seconds)}`,
      item.bpm ? `${Math.round(item.bpm)} bpm` : null,
      output.seed === null ? null : `seed ${output.seed}`,
      `item ${item.id}`,
    ];
    return element(
      "div",
      { class: "card-head" },
      element("h3", {}, item.title),
      element("span", { class: "by" }, systemTitle(output.system)),
      element("p", { class: "about" }, about.filter(Boolean).join(" · ")),
    );
  }

  makeScores() {
    const list = element("dl", { class: "scores" });
    for (const metric of data.metrics) {
      const value = this.output.metrics[metric.name];
      if (value === undefined) continue;
      const text = [formatNumber(value), value === null ? "" : metric.unit].filter(Boolean).join(" ");
      const pair = element("div", {}, element("dt", {}, metric.title), element("dd", {}, text));
      pair.dataset.metric = metric.name;
      list.append(pair);
    }
    return list;
  }

  /** Players are made when the card first comes near, and their pictures are drawn whenever it does. */
  enter() {
    this.isNear = true;
    if (!this.tracks.childElementCount) this.makePlayers();
    this.draw();
  }

  leave() {
    this.isNear = false;
    for (const player of this.players) player.erase();
  }

  draw() {
    for (const player of this.players) player.draw();
  }

  makePlayers() {
    for (const [name, clipIndex] of Object.entries(this.clips)) {
      if (clipIndex === null) continue;
      const { error } = data.clips[clipIndex];
      if (error) {
        const message = element("p", { class: "error" }, error);
        const head = element("div", { class: "track-head" }, element("span", {}, name));
        this.tracks.append(element("div", { class: "track" }, head, message));
        continue;
      }
      const player = new Player(this, name, clipIndex);
      this.players.push(player);
      this.tracks.append(player.root);
    }
    if (!this.tracks.childElementCount) this.tracks.append(element("p", { class: "hint" }, "There is no audio."));
  }

  /** Moves all players of the card, so that another one goes on where this one was. */
  moveTo(seconds) {
    const longest = Math.max(...this.players.map((player) => player.clip.seconds));
    this.position = Math.min(Math.max(seconds, 0), longest);
    if (this.isSounding()) sounding.place();
    this.showPosition();
  }

  showPosition() {
    for (const player of this.players) player.showPosition();
  }

  value() {
    return this.output.metrics[sortChoice.value] ?? null;
  }
}

let currentCard = null; // the one that keys work on

const cards = data.items.flatMap((item) => item.outputs.map((output) => new Card(item, output)));
const cardWatch = watchNear((root) => root.card.enter(), (root) => root.card.leave());

function isShown(card) {
  const system = systemChoice.value;
  const role = systemsByName.get(card.output.system)?.role;
  const fits = system === "*" || (system === "*systems" ? role === "system" : card.output.system === system);
  return fits && (!contextChoice.value || card.item.context === contextChoice.value);
}

function sortMetric() {
  return data.metrics.find((metric) => metric.name === sortChoice.value);
}

/** Whether low values come first: they are the worst ones, unless lower is better. */
function lowFirst() {
  const reversed = orderButton.getAttribute("aria-pressed") === "true";
  return (sortMetric()?.better !== "lower") !== reversed;
}

function sortedCards() {
  const sign = lowFirst() ? 1 : -1;
  // Sorting is stable: where values are equal, the order of the results stays. Undefined ones come last.
  return [...cards].sort((one, other) => {
    const [first, second] = [one.value(), other.value()];
    if (first === null || second === null) return (first === null) - (second === null);
    return sign * (first - second);
  });
}

function showCards() {
  const metric = sortMetric();
  const [usual, reversed] = metric?.better === "none" ? ["Lowest first", "Highest first"] : ["Worst first", "Best first"];
  orderButton.textContent = orderButton.getAttribute("aria-pressed") === "true" ? reversed : usual;
  orderButton.disabled = !metric;
  let shown = 0;
  for (const card of sortedCards()) {
    card.root.hidden = !isShown(card);
    shown += card.root.hidden ? 0 : 1;
    // What can no longer be seen should not be heard.
    if (card.root.hidden && card.isSounding()) sounding.pause();
    for (const pair of card.root.querySelectorAll(".scores div")) {
      pair.classList.toggle("sorted", pair.dataset.metric === metric?.name);
    }
    cardsPlace.append(card.root);
  }
  document.getElementById("count").textContent = `${shown} of ${cards.length} shown`;
}

/** Scrolls to the card of a dot; the filters give way if they hide it. */
function showCard(item, output) {
  const card = cards.find((candidate) => candidate.item === item && candidate.output === output);
  if (!isShown(card)) {
    systemChoice.value = output.system;
    contextChoice.value = "";
    showCards();
  }
  goTo(card);
}

/** Scrolls to a card and makes it the one that keys work on. */
function goTo(card) {
  for (const found of cardsPlace.querySelectorAll(".found")) found.classList.remove("found");
  card.root.classList.add("found");
  card.root.scrollIntoView({ block: "start" });
  card.root.focus({ preventScroll: true });
  currentCard = card;
}

/** Keys of the page: j and k go to the next and the previous item, 1 to 4 hear one track alone, space plays. */
function pressed(event) {
  if (event.ctrlKey || event.altKey || event.metaKey || event.target.closest("input, select, textarea")) return;
  const shown = [...cardsPlace.children].filter((root) => !root.hidden).map((root) => root.card);
  if (event.key === "j" || event.key === "k") {
    const place = shown.indexOf(currentCard);
    const next = shown[place < 0 ? 0 : place + (event.key === "j" ? 1 : -1)];
    if (next) goTo(next);
  } else if ("1234".includes(event.key)) {
    const mixer = currentCard?.mixer;
    const name = mixer?.names[Number(event.key) - 1];
    if (name) mixer.hearAlone(name);
  } else if (event.key === " " && !event.target.closest("button, summary, a, [role=slider]")) {
    if (!currentCard) return;
    if (currentCard.isSounding()) sounding.pause();
    else (currentCard.mixer ?? currentCard.players[0])?.toggle();
  } else return;
  event.preventDefault();
}

/** The heads of the summary's table: a system shows its items, a metric sorts them. */
function setUpHeads() {
  for (const head of document.querySelectorAll("[data-show]")) {
    const has = [...systemChoice.options].some((option) => option.value === head.dataset.show);
    head.disabled = !has;
    head.addEventListener("click", () => showSorted(systemChoice, head.dataset.show));
  }
  for (const sorter of document.querySelectorAll("[data-sort]")) {
    const has = [...sortChoice.options].some((option) => option.value === sorter.dataset.sort);
    sorter.hidden = !has;
    sorter.addEventListener("click", () => showSorted(sortChoice, sorter.dataset.sort));
  }
}

function showSorted(choice, value) {
  choice.value = value;
  showCards();
  document.getElementById("items").scrollIntoView({ block: "start" });
}

function fill(choice, options) {
  choice.append(...options.map(([value, text]) => new Option(text, value)));
  choice.closest("label").hidden = options.length < 2;
}

function setUpItems() {
  const measured = data.metrics.filter((metric) => cards.some((card) => typeof card.output.metrics[metric.name] === "number"));
  fill(sortChoice, [...measured.map((metric) => [metric.name, metric.title]), ["", "Song"]]);
  const heard = data.systems.filter((system) => cards.some((card) => card.output.system === system.name));
  const anchored = heard.some((system) => system.role === "anchor");
  const systems = heard.map((system) => [system.name, system.role === "anchor" ? `${system.title} (anchor)` : system.title]);
  const groups = [["*systems", "All systems"]];
  if (anchored) groups.push(["*", "All, and anchors"]);
  fill(systemChoice, systems.length > 1 ? [...groups, ...systems] : [["*", systems[0]?.[1] ?? ""]]);
  const contexts = data.contexts.map((context) => [context.name, context.title]);
  fill(contextChoice, contexts.length > 1 ? [["", "All"], ...contexts] : [["", "All"]]);
  for (const choice of [sortChoice, systemChoice, contextChoice]) choice.addEventListener("change", showCards);
  orderButton.addEventListener("click", () => {
    orderButton.setAttribute("aria-pressed", String(orderButton.getAttribute("aria-pressed") !== "true"));
    showCards();
  });
  document.getElementById("tools").addEventListener("submit", (event) => event.preventDefault());
  showCards();
  for (const card of cards) cardWatch.observe(card.root);
  const redraw = () => cards.filter((card) => card.isNear).forEach((card) => card.draw());
  document.addEventListener("themechange", redraw);
  let width = innerWidth;
  addEventListener("resize", () => {
    // A phone's address bar changes the height all the time; the pictures depend on the width alone.
    if (innerWidth !== width) redraw();
    width = innerWidth;
  });
}

setUpPlots();
setUpItems();
setUpHeads();
document.addEventListener("keydown", pressed);
