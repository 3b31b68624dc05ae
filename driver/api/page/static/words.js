// Makes texts of numbers and of foreign names.

// What a terminal or a reader would obey: controls, and what turns the direction of writing.
const UNSEEN = /[\u0000-\u001f\u007f-\u009f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff]/gu;

function shown(text, longest) {
  const letters = [...String(text ?? "").slice(0, 2 * longest + 2)];
  const more = letters.length > longest ? "…" : "";
  return letters.slice(0, longest).join("").replace(UNSEEN, "\ufffd") + more;
}

export const name = (text) => shown(text, 60) || "–";
export const sentence = (text) => shown(text, 300);

function scaled(count, units, unit) {
  let at = 0;
  while (count >= 999.5 && at < units.length - 1) {
    count /= 1000;
    at++;
  }
  return `${count >= 99.5 || (at === 0 && Number.isInteger(count)) ? Math.round(count) : count.toFixed(count < 0.1 && count > 0 ? 2 : 1)} ${units[at]}${unit}`.trimEnd();
}

export const bytes = (perSecond) => scaled(perSecond, ["", "k", "M", "G", "T"], "B/s");
export const rate = (perSecond) => (perSecond === 0 ? "0" : `${scaled(perSecond, ["", "k", "M", "G"], "")}/s`);
export const count = (number) => new Intl.NumberFormat("en").format(number);
export const plural = (number, one, many = `${one}s`) => `${count(number)} ${number === 1 ? one : many}`;

export function clock(at) {
  return new Date(at * 1000).toLocaleTimeString("en-GB", { hour: "2-digit", minute: "2-digit", second: "2-digit" });
}

export function age(seconds) {
  if (seconds === null || seconds === undefined) return "–";
  if (seconds < 120) return `${Math.max(0, Math.round(seconds))} s`;
  return seconds < 7200 ? `${Math.round(seconds / 60)} min` : `${Math.round(seconds / 3600)} h`;
}
