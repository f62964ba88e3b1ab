// Charts, drawn as SVG at the width they have. A chart says its numbers to the pointer, and to the arrow keys.

const MANY = 25; // a curve of more values is smoothed
const HEIGHT = 200;
const ROOM = { left: 52, right: 14, top: 10, bottom: 26 };

const observer = new ResizeObserver((entries) => entries.forEach(({ target }) => target.redraw?.()));

// A place that is drawn anew whenever its width changes, or redraw() is called.
function canvas(label, paint) {
  const host = make("div", { class: "canvas" });
  host.redraw = () => {
    const width = Math.floor(host.clientWidth);
    if (width) host.replaceChildren(paint(width, label));
  };
  observer.observe(host);
  return host;
}

function frame(width, height, label, x, y, xTicks, yTicks, xTitle) {
  const svg = draw("svg", { width, height, viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": label, tabindex: 0 });
  for (const value of yTicks) {
    svg.append(
      draw("line", { class: "grid", x1: ROOM.left, x2: width - ROOM.right, y1: y(value), y2: y(value) }),
      draw("text", { class: "tick", x: ROOM.left - 7, y: y(value), dy: "0.32em", "text-anchor": "end" }, number(value)),
    );
  }
  for (const value of xTicks) {
    svg.append(draw("text", { class: "tick", x: x(value), y: height - (xTitle ? 24 : 10), "text-anchor": "middle" }, number(value)));
  }
  if (xTitle) {
    svg.append(draw("text", { class: "axis", x: width - ROOM.right, y: height - 5, "text-anchor": "end" }, xTitle));
  }
  return svg;
}

const path = (points) => points.map(([x, y], place) => `${place ? "L" : "M"}${x.toFixed(1)} ${y.toFixed(1)}`).join("");

// Curves over the training steps, with the band of their intervals.
function curves(panel, steps, shown) {
  return canvas(panel.title, (width) => {
    const series = panel.series.filter(({ name }) => shown.get(name));
    const [left, right] = [ROOM.left, width - ROOM.right];
    const x = linear(steps[0] === steps[1] ? [steps[0] - 1, steps[1] + 1] : steps, [left + 4, right - 4]);
    const ends = extent(series.flatMap(({ values, low, high }) => [values, low, high].flat()));
    const y = linear(ends, [HEIGHT - ROOM.bottom, ROOM.top]);
    const lastOf = ({ name, values }) => `${name}: last ${number(values.at(-1))}`;
    const label = `${panel.title}. ${series.map(lastOf).join("; ")}`;
    const whole = ticks(...steps, width > 420 ? 6 : 4).filter(Number.isInteger);
    const svg = frame(width, HEIGHT, label, x, y, whole, ticks(...ends, 4));
    for (const one of series) curve(svg, one, x, y, shown.get("smooth"));
    pointed(svg, width, series, x, y);
    return svg;
  });
}

function curve(svg, { name, steps, values, low, high }, x, y, smooth) {
  const kind = name === "training" ? "c1" : "c2";
  const points = values.map((value, place) => [x(steps[place]), y(value)]);
  const banded = low.map((_, place) => place).filter((place) => low[place] !== null && high[place] !== null);
  if (banded.length > 1) {
    const over = banded.map((place) => [x(steps[place]), y(high[place])]);
    const under = banded.map((place) => [x(steps[place]), y(low[place])]).reverse();
    svg.append(draw("path", { class: `band ${kind}`, d: `${path([...over, ...under])}Z` }));
  }
  for (const place of banded.length <= MANY ? banded : []) {
    const [at, from, to] = [x(steps[place]), y(low[place]), y(high[place])];
    svg.append(draw("line", { class: `whisker ${kind}`, x1: at, x2: at, y1: from, y2: to }));
  }
  const many = values.length > MANY && smooth;
  svg.append(draw("path", { class: `line ${kind}${many ? " faint" : ""}`, d: path(points) }));
  if (many) {
    const means = runningMean(values, Math.floor(values.length / MANY));
    svg.append(draw("path", { class: `line ${kind}`, d: path(means.map((mean, place) => [x(steps[place]), y(mean)])) }));
  }
  if (values.length <= MANY) {
    svg.append(...points.map(([cx, cy]) => draw("circle", { class: `dot ${kind}`, cx, cy, r: 2.6 })));
  }
}

// A rule that follows the pointer or the arrow keys, and the numbers at it.
function pointed(svg, width, series, x, y) {
  const steps = [...new Set(series.flatMap((one) => one.steps))].sort((a, b) => a - b);
  if (!steps.length) return;
  const rule = draw("line", { class: "rule", y1: ROOM.top, y2: HEIGHT - ROOM.bottom, visibility: "hidden" });
  const marks = series.map(({ name }) => draw("circle", { class: `mark ${name === "training" ? "c1" : "c2"}`, r: 4, visibility: "hidden" }));
  svg.append(rule, ...marks);
  let current = steps.length - 1;
  const show = (place, left, top) => {
    current = place;
    const step = steps[place];
    rule.setAttribute("x1", x(step));
    rule.setAttribute("x2", x(step));
    rule.setAttribute("visibility", "visible");
    const pairs = series.map((one, which) => {
      const found = one.steps.indexOf(step);
      marks[which].setAttribute("visibility", found < 0 ? "hidden" : "visible");
      if (found < 0) return null;
      marks[which].setAttribute("cx", x(step));
      marks[which].setAttribute("cy", y(one.values[found]));
      const between = one.low[found] === null || one.low[found] === undefined ? "" : ` (${number(one.low[found])} … ${number(one.high[found])})`;
      return [one.stretch > 1 ? `${one.name}, mean of ${one.stretch}` : one.name, number(one.values[found]) + between];
    });
    tip.show(left, top, ...listed(`step ${number(step)}`, pairs.filter(Boolean)));
  };
  const hide = () => {
    for (const one of [rule, ...marks]) one.setAttribute("visibility", "hidden");
    tip.hide();
  };
  const nearest = (event) => {
    const there = event.clientX - svg.getBoundingClientRect().left;
    let best = 0;
    steps.forEach((step, place) => {
      if (Math.abs(x(step) - there) < Math.abs(x(steps[best]) - there)) best = place;
    });
    show(best, event.clientX, event.clientY);
  };
  svg.addEventListener("pointermove", nearest);
  svg.addEventListener("pointerdown", nearest);
  svg.addEventListener("pointerleave", hide);
  svg.addEventListener("blur", hide);
  svg.addEventListener("keydown", (event) => {
    const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!by) return;
    event.preventDefault();
    const box = svg.getBoundingClientRect();
    const place = Math.max(0, Math.min(steps.length - 1, current + by));
    show(place, box.left + x(steps[place]), box.top + HEIGHT / 2);
  });
}

// Bars of shares, of each set beside each other.
function bars(histogram) {
  const { edges, labels, shares } = histogram;
  const count = edges.length ? edges.length - 1 : labels.length;
  const named = (place) => (edges.length ? `${number(edges[place])} … ${number(edges[place + 1])}` : number(labels[place]));
  return canvas(histogram.name, (width) => {
    const high = Math.max(0.01, ...shares.flatMap(([, values]) => values));
    const y = linear([0, high * 1.05], [HEIGHT - 30 - ROOM.bottom, ROOM.top]);
    const wide = (width - ROOM.left - ROOM.right) / Math.max(1, count);
    const left = (place) => ROOM.left + place * wide;
    const every = Math.ceil((count * 44) / (width - ROOM.left));
    const said = histogram.means.map(([set, mean]) => `${set}: mean ${number(mean)}`).join("; ");
    const svg = frame(width, HEIGHT - 30, `Distribution of ${histogram.name}. ${said}`, (value) => value, y, [], ticks(0, high, 3));
    for (let place = 0; place < (edges.length || count); place += every) {
      const [where, value] = edges.length ? [left(place), edges[place]] : [left(place) + wide / 2, labels[place]];
      svg.append(draw("text", { class: "tick", x: where, y: HEIGHT - 38, "text-anchor": "middle" }, number(value)));
    }
    shares.forEach(([, values], which) => {
      const each = Math.min(26, (wide * 0.84) / shares.length);
      values.forEach((share, place) => {
        const from = left(place) + wide / 2 - (each * shares.length) / 2 + each * which;
        const kind = shares.length > 1 && !which ? "c7" : "c2";
        svg.append(draw("rect", { class: `bar ${kind}`, x: from, y: y(share), width: Math.max(1, each - 1), height: y(0) - y(share) }));
      });
    });
    const point = (event) => {
      const place = Math.floor((event.clientX - svg.getBoundingClientRect().left - ROOM.left) / wide);
      if (place < 0 || place >= count) return tip.hide();
      const pairs = shares.map(([set, values]) => [set, `${number(100 * values[place])} %`]);
      return tip.show(event.clientX, event.clientY, ...listed(named(place), pairs));
    };
    svg.addEventListener("pointermove", point);
    svg.addEventListener("pointerdown", point);
    svg.addEventListener("pointerleave", tip.hide);
    return svg;
  });
}

// Points of one cost against accuracy, and the staircase of their front.
function scatter(pareto, cost, highlight) {
  const { accuracy, points } = pareto;
  const value = (point, axis) => new Map(point.values).get(axis);
  const pair = `${accuracy}|${cost}`;
  const units = new Map(pareto.units);
  return canvas(pair, (width) => {
    const height = 300;
    const xs = extent(points.map((point) => value(point, cost)), 0.08);
    const ys = extent(points.map((point) => value(point, accuracy)), 0.08);
    const x = linear(xs, [ROOM.left + 4, width - ROOM.right - 4]);
    const y = linear(ys, [height - ROOM.bottom - 18, ROOM.top]);
    const front = points.filter((point) => new Map(point.on_front).get(pair)).sort((a, b) => value(a, cost) - value(b, cost));
    const unit = units.get(cost) ? `${cost}, ${units.get(cost)}` : cost;
    const label = `${accuracy} against ${cost}: ${points.length} preferences, ${front.length} on the front`;
    const svg = frame(width, height, label, x, y, ticks(...xs, 5), ticks(...ys, 5), `${unit} →`);
    const steps = front.flatMap((point, place) => {
      const here = [x(value(point, cost)), y(value(point, accuracy))];
      return place ? [[here[0], y(value(front[place - 1], accuracy))], here] : [here];
    });
    if (steps.length > 1) svg.append(draw("path", { class: "line c1 stair", d: path(steps) }));
    for (const point of points) svg.append(dot(point, pareto, cost, x, y, new Map(point.on_front).get(pair), highlight));
    return svg;
  });
}

function dot(point, pareto, cost, x, y, onFront, highlight) {
  const [values, low, high] = [point.values, point.low, point.high].map((pairs) => new Map(pairs));
  const between = (axis) => (low.get(axis) === null ? "" : ` (${number(low.get(axis))} … ${number(high.get(axis))})`);
  const cx = x(values.get(cost));
  const cy = y(values.get(pareto.accuracy));
  const group = draw("g", { class: `point${onFront ? " front" : ""}`, "data-label": point.label });
  const whiskers = [
    [cost, (end) => [x(end), cy]],
    [pareto.accuracy, (end) => [cx, y(end)]],
  ];
  for (const [axis, place] of whiskers.filter(([axis]) => low.get(axis) !== null)) {
    const [[x1, y1], [x2, y2]] = [place(low.get(axis)), place(high.get(axis))];
    group.append(draw("line", { class: "whisker c1", x1, x2, y1, y2 }));
  }
  group.append(draw("circle", { cx, cy, r: 12, class: "catch" }), draw("circle", { cx, cy, r: 4.5, class: "spot c1" }));
  const say = (event) => {
    const said = point.values.map(([axis, mean]) => [axis, number(mean) + between(axis)]);
    tip.show(event.clientX, event.clientY, ...listed(point.label, [...said, ["episodes", thousands(point.episodes)]]));
    highlight(point.label);
  };
  group.addEventListener("pointerenter", say);
  group.addEventListener("pointerdown", say);
  group.addEventListener("pointerleave", () => {
    tip.hide();
    highlight(null);
  });
  return group;
}
