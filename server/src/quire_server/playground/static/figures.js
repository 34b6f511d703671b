// Figures as people read them. The same everywhere: a thin space between thousands, a point before decimals.

export const count = (number) => String(number).replace(/\B(?=(\d{3})+(?!\d))/g, "\u202f");

export function bytes(number) {
  for (const [unit, size] of [["GiB", 2 ** 30], ["MiB", 2 ** 20], ["KiB", 2 ** 10]]) {
    if (number >= size) return `${(number / size).toFixed(1)} ${unit}`;
  }
  return `${number} bytes`;
}

export function rate(perSecond) {
  if (perSecond === 0) return "0";
  return perSecond >= 100 ? count(Math.round(perSecond)) : perSecond.toFixed(1);
}

/** A part of a whole in percent; a dash where there is no whole. */
export const share = (part, whole) => (whole ? `${(part / whole * 100).toFixed(1)} %` : "–");

/** Seconds, in the unit that suits. */
export function duration(seconds) {
  if (seconds < 1) return `${(seconds * 1000).toFixed(seconds < 0.1 ? 1 : 0)} ms`;
  if (seconds < 60) return `${seconds.toFixed(seconds < 10 ? 1 : 0)} s`;
  return `${(seconds / 60).toFixed(1)} min`;
}
