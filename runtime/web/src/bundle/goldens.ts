/** The golden test: replay a bundle's stored inputs in this browser and compare the answers. */

import { NotFiniteError } from "../errors.ts";
import { argmax } from "../decision.ts";
import type { Goldens } from "./manifest.ts";

/** The facts of a golden test, by the names of the Python runtime. */
export interface Replay {
  passed: boolean;
  clips: number;
  labels_agree: number;
  max_logit_diff: number | null;
  tolerance: number;
  differing: { golden: number; frames: number; max_logit_diff: number | null; label_agrees: boolean }[];
}

/** Run the goldens one clip at a time; `strict`: every label must agree, as in fp32. */
export async function replayGoldens(goldens: Goldens, infer: (clip: Float32Array) => Promise<Float32Array>, tolerance: number, strict: boolean): Promise<Replay> {
  const differing: Replay["differing"] = [];
  let agree = 0;
  let largest: number | null = null;
  for (const [golden, clip] of goldens.clips.entries()) {
    const logits = await answer(clip, infer);
    const expected = goldens.logits[golden];
    const difference = logits && logits.reduce((most, logit, c) => Math.max(most, Math.abs(logit - expected[c])), 0);
    const label_agrees = logits !== null && argmax(logits) === argmax(expected);
    agree += Number(label_agrees);
    if (difference !== null) largest = Math.max(largest ?? 0, difference);
    if (difference === null || difference > tolerance || !label_agrees)
      differing.push({ golden, frames: clip.length / 108, max_logit_diff: difference, label_agrees });
  }
  const numbers = largest !== null && differing.every((one) => one.max_logit_diff !== null);
  const passed = numbers && largest! <= tolerance && (agree === goldens.clips.length || !strict);
  return { passed, clips: goldens.clips.length, labels_agree: agree, max_logit_diff: largest, tolerance, differing };
}

async function answer(clip: Float32Array, infer: (clip: Float32Array) => Promise<Float32Array>): Promise<Float32Array | null> {
  try {
    return await infer(clip);
  } catch (error) {
    if (error instanceof NotFiniteError) return null;
    throw error;
  }
}
