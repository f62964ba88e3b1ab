// Numbers: how they are written, and where they are on a chart.

const MINUS = "\u2212";

function number(value) {
  if (value === null || value === undefined) return "n/a";
  const size = Math.abs(value);
  let text;
  if (size >= 10000) text = Math.round(size).toLocaleString("en");
  else if (size !== 0 && size < 0.001) text = size.toExponential(1);
  else text = String(Number(size.toPrecision(size >= 1000 ? 4 : 3)));
  return value < 0 && Number(text.replace(/,/g, "")) !== 0 ? MINUS + text : text;
}

const signed = (value) => (value > 0 ? `+${number(value)}` : number(value));
const thousands = (count) => count.toLocaleString("en");

// Round values between two ends, about so many.
function ticks(low, high, count) {
  const rough = (high - low) / Math.max(1, count) || 1;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = power * ([1, 2, 5, 10].find((times) => times * power >= rough) ?? 10);
  const found = [];
  for (let place = Math.ceil(low / step - 1e-9); place * step <= high + step * 1e-9; place++) found.push(place * step);
  return found;
}

// Ends with some room, also around a single value.
function extent(values, room = 0.06) {
  let [low, high] = [Infinity, -Infinity];
  for (const value of values) {
    if (value === null || value === undefined) continue;
    low = Math.min(low, value);
    high = Math.max(high, value);
  }
  if (low > high) return [0, 1];
  const spread = high - low || Math.abs(high) || 1;
  return [low - room * spread, high + room * spread];
}

const linear = ([low, high], [from, to]) => (value) => from + ((value - low) / (high - low || 1)) * (to - from);

// The mean of each value and of so many on either side.
function runningMean(values, reach) {
  return values.map((_, place) => {
    const window = values.slice(Math.max(0, place - reach), place + reach + 1);
    return window.reduce((sum, value) => sum + value, 0) / window.length;
  });
}
