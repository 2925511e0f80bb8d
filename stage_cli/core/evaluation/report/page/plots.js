// Distributions: for each metric of items a strip of dots and a box for each system, drawn when scrolled near.

const plotsPlace = document.getElementById("plots");
const SVG = "http://www.w3.org/2000/svg";
const STRIP_HEIGHT = 32;
const GOLDEN = 0.618034;

function shape(name, attributes) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  return made;
}

/** Quantile of sorted numbers, linear between neighbours. */
function quantile(sorted, share) {
  const place = (sorted.length - 1) * share;
  const below = Math.floor(place);
  const above = Math.min(below + 1, sorted.length - 1);
  return sorted[below] + (sorted[above] - sorted[below]) * (place - below);
}

/** All values of a metric in one kind of context, by system, in the order of the tables. */
function valuesBySystem(metric, context) {
  const found = new Map(data.systems.map((system) => [system.name, []]));
  for (const item of data.items) {
    if (item.context !== context) continue;
    for (const output of item.outputs) {
      const value = output.metrics[metric.name];
      if (typeof value === "number") found.get(output.system)?.push({ value, item, output });
    }
  }
  return [...found].filter(([, points]) => points.length);
}

/** The ends of a plot: the metric's range where it is closed, else what holds the values. */
function plotEnds(metric, strips) {
  if (metric.range) return metric.range;
  const values = strips.flatMap(([, points]) => points.map((point) => point.value));
  const low = Math.min(...values);
  const high = Math.max(...values);
  return high > low ? [low, high] : [low - 1, high + 1];
}

function drawStrip(system, points, [low, high]) {
  const share = (value) => `${(100 * (value - low)) / (high - low)}%`;
  const sorted = points.map((point) => point.value).sort((one, other) => one - other);
  const [first, median, third] = [0.25, 0.5, 0.75].map((part) => quantile(sorted, part));
  const middle = STRIP_HEIGHT / 2;
  const drawing = shape("svg", { "aria-hidden": "true" });
  drawing.append(shape("line", { class: "ground", x1: "0%", x2: "100%", y1: middle, y2: middle }));
  points.forEach((point, place) => {
    // Spread evenly, and the same at every drawing.
    const y = middle + (((place * GOLDEN) % 1) - 0.5) * (STRIP_HEIGHT - 12);
    const dot = shape("circle", { cx: share(point.value), cy: y, r: 3 });
    dot.append(shape("title", {}));
    dot.firstChild.textContent = `${point.item.title} (${point.item.id}): ${formatNumber(point.value)}`;
    dot.addEventListener("click", () => showCard(point.item, point.output));
    drawing.append(dot);
  });
  if (sorted[0] !== sorted.at(-1)) {
    const width = `${(100 * (third - first)) / (high - low)}%`;
    drawing.append(shape("rect", { class: "box", x: share(first), width, y: 5, height: STRIP_HEIGHT - 10, rx: 2 }));
  }
  drawing.append(shape("line", { class: "middle", x1: share(median), x2: share(median), y1: 4, y2: STRIP_HEIGHT - 4 }));
  const name = element("span", { class: "name", title: systemTitle(system) }, systemTitle(system));
  const number = element("span", { class: "median", title: "median" }, formatNumber(median));
  return { strip: element("div", { class: `strip ${systemClass(system)}` }, name, drawing, number), median };
}

function drawPlot(figure) {
  if (figure.dataset.drawn) return;
  figure.dataset.drawn = "yes";
  const { metric, context } = figure;
  const strips = valuesBySystem(metric, context);
  const ends = plotEnds(metric, strips);
  const spoken = [];
  for (const [system, points] of strips) {
    const { strip, median } = drawStrip(system, points, ends);
    spoken.push(`${systemTitle(system)} ${formatNumber(median)}`);
    figure.append(strip);
  }
  const axis = [ends[0], (ends[0] + ends[1]) / 2, ends[1]].map((value) => element("span", {}, formatNumber(value)));
  figure.append(element("div", { class: "axis", "aria-hidden": "true" }, ...axis));
  figure.setAttribute("aria-label", `${metric.title}, medians: ${spoken.join(", ")}`);
}

const plotWatch = watchNear(drawPlot);

function showPlots(context) {
  plotWatch.disconnect();
  const figures = [];
  for (const metric of data.metrics) {
    const strips = valuesBySystem(metric, context).length;
    if (!strips) continue;
    const direction = { higher: "↑ higher is better", lower: "↓ lower is better", none: "" }[metric.better];
    const caption = element("figcaption", {}, `${metric.title} `);
    caption.append(element("small", {}, [metric.unit, direction].filter(Boolean).join(" · ")));
    const figure = element("figure", { class: "plot", role: "img", "aria-label": metric.title }, caption);
    figure.style.minHeight = `${2 * strips + 5.3}rem`; // as drawn: nothing below may move when it is
    Object.assign(figure, { metric, context });
    figures.push(figure);
    plotWatch.observe(figure);
  }
  plotsPlace.replaceChildren(...figures);
}

function setUpPlots() {
  const choice = document.getElementById("plot-context");
  choice.hidden = data.contexts.length < 2;
  data.contexts.forEach((context, place) => {
    const radio = element("input", { type: "radio", name: "plot-context", value: context.name });
    radio.checked = place === 0;
    radio.addEventListener("change", () => showPlots(context.name));
    choice.append(element("label", {}, radio, context.title));
  });
  if (data.contexts.length) showPlots(data.contexts[0].name);
  addEventListener("beforeprint", () => plotsPlace.querySelectorAll(".plot").forEach(drawPlot));
}
