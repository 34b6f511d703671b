// The last minutes of one figure as a line.

import { svg } from "./dom.js";
import { rate } from "./figures.js";

const WIDTH = 300;
const HEIGHT = 56;

/** `values`: oldest first, at most `most`; the newest is at the right edge. */
export function sparkline(values, most) {
  const peak = Math.max(1, ...values);
  const points = values.map((value, at) => [
    WIDTH - ((values.length - 1 - at) * WIDTH) / (most - 1),
    HEIGHT - 2 - (value / peak) * (HEIGHT - 6),
  ]);
  const line = points.map(([x, y]) => `${x.toFixed(1)} ${y.toFixed(1)}`).join(" L");
  const name = values.length
    ? `Tokens per second: ${rate(values.at(-1))} now, at most ${rate(Math.max(...values))} shown`
    : "Tokens per second: nothing measured yet";
  return svg(
    "svg",
    { class: "sparkline", viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", role: "img", "aria-label": name },
    svg("path", { class: "base", d: `M0 ${HEIGHT - 1} H${WIDTH}` }),
    points.length > 1
      ? svg("path", { class: "area", d: `M${points[0][0].toFixed(1)} ${HEIGHT} L${line} L${WIDTH} ${HEIGHT} Z` })
      : null,
    points.length > 1 ? svg("path", { class: "line", d: `M${line}` }) : null,
  );
}
