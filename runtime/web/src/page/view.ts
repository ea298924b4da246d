/** What the page shows: status, picture with skeleton, word, scores, the last signs. */

import type { Label, Prediction, StreamEvent } from "../index.ts";
import { BONES } from "../landmarks.ts";

const KEPT = 6;
const words = new Map<string, Label>();

export const at = (id: string) => document.getElementById(id)!;
const colour = (name: string) => getComputedStyle(document.documentElement).getPropertyValue(name);

export function say(text: string): void {
  at("status").textContent = text;
}

export function fail(text: string): void {
  at("error").textContent = text;
  at("error").hidden = false;
  say("");
}

/** Return a word: gloss, and Bengali in an element that says its language. */
function named(label: string): (string | Node)[] {
  const { gloss = "", bengali = "" } = words.get(label) ?? {};
  if (!bengali) return [gloss || label];
  const other = document.createElement("span");
  other.lang = "bn";
  other.textContent = bengali;
  return [other, document.createTextNode(" "), gloss || label];
}

function element(name: string, ...content: (string | Node)[]): HTMLElement {
  const made = document.createElement(name);
  made.append(...content);
  return made;
}

function bars(best: readonly { label: string; score: number }[]): void {
  at("bars").replaceChildren(
    ...best.slice(0, 3).map(({ label, score }) => {
      const meter = document.createElement("meter");
      meter.value = score;
      meter.setAttribute("aria-label", label);
      return element("li", element("span", ...named(label)), meter, element("span", score.toFixed(2)));
    }),
  );
}

function answer(label: string, score: number, probability: number | null, best: readonly { label: string; score: number }[]): void {
  at("word").replaceChildren(...named(label));
  at("sure").textContent = probability === null ? `score ${score.toFixed(2)}` : `${Math.round(100 * probability)} % sure`;
  at("remark").textContent = "";
  bars(best);
}

const events: { [T in StreamEvent["type"]]?: (event: Extract<StreamEvent, { type: T }>) => void } = {
  tracking: (e) => say(`${Math.round(e.frames_per_s)} frames a second; body ${percent(e.body)}, left hand ${percent(e.left_hand)}, right hand ${percent(e.right_hand)}`),
  sign_start: () => (at("remark").textContent = "signing …"),
  partial: (e) => bars(e.best),
  sign(e) {
    answer(e.label, e.score, e.probability, e.best);
    at("last").prepend(element("li", element("span", ...named(e.label)), element("time", `${(e.start_ms / 1000).toFixed(1)} s`)));
    if (at("last").children.length > KEPT) at("last").lastElementChild!.remove();
  },
  abstain: (e) => (at("remark").textContent = `no answer: ${e.reason}`),
  fault: (e) => (at("remark").textContent = e.reason),
};

const percent = (share: number) => `${Math.round(100 * share)} %`;

export const show = {
  words(labels: readonly Label[]): void {
    for (const label of labels) words.set(label.name, label);
  },

  row(id: string, name: string, value: string): void {
    const head = element("th", name) as HTMLTableCellElement;
    head.scope = "row";
    at(id).append(element("tr", head, element("td", value)));
  },

  /** Forget what was shown; the landmarks that come lie over a video, or over nothing. */
  begin(video: HTMLVideoElement | null = null, isMirrored = false): void {
    at("view").querySelector("video")?.remove();
    if (video) {
      video.setAttribute("aria-hidden", "true"); // the words say what it shows
      at("view").prepend(video);
    }
    at("view").classList.toggle("mirrored", isMirrored);
    at("view").style.aspectRatio = video ? String(video.videoWidth / video.videoHeight) : "";
    for (const id of ["word", "sure", "remark", "bars", "last"]) at(id).replaceChildren();
  },

  answer(found: Prediction): void {
    answer(found.label, found.score, found.probability, found.best);
    if (found.is_sign === false) at("remark").textContent = `no sign: ${found.reason}`;
  },

  event(event: StreamEvent): void {
    (events[event.type] as ((event: StreamEvent) => void) | undefined)?.(event);
  },
};

/** Draw the landmarks over the picture; null clears them. */
export function drawSkeleton(points: Float32Array | null, t_ms: number): void {
  const canvas = at("skeleton") as HTMLCanvasElement;
  const scale = devicePixelRatio || 1, box = canvas.getBoundingClientRect();
  canvas.width = box.width * scale;
  canvas.height = box.height * scale;
  canvas.dataset.ms = String(t_ms);
  const pen = canvas.getContext("2d")!;
  pen.scale(scale, scale);
  pen.lineCap = "round";
  for (const [a, b] of points ? BONES : []) {
    const [x, y, u, v] = [points![2 * a], points![2 * a + 1], points![2 * b], points![2 * b + 1]];
    if (Number.isNaN(x + y + u + v)) continue;
    pen.strokeStyle = colour(a < 12 ? "--body" : a < 33 ? "--left" : "--right");
    pen.lineWidth = a < 12 ? 4 : 2;
    pen.beginPath();
    pen.moveTo(x * box.width, y * box.height);
    pen.lineTo(u * box.width, v * box.height);
    pen.stroke();
  }
}
