/** WebGPU is taken where it is there, gives the stored answers, and, with "auto", takes less time than WebAssembly. */

import type { BackendName } from "./engine.ts";
import { BackendError, ConfigError } from "./errors.ts";

/** "webgpu": where its answers are right; "auto": where it is faster, too. Elsewhere WebAssembly answers. */
export type Asked = BackendName | "auto";

/** Backend → why it was taken or left, as in Python. */
export type Why = Partial<Record<BackendName, string>>;

export interface Chosen<T> {
  made: T;
  why: Why;
}

interface Candidate {
  /** Replay the stored answers. */
  verify(): Promise<{ passed: boolean }>;
  close(): void;
}

const ROUNDS = 5;
const HOPELESS = 2; // times as long in the first round: more rounds change nothing

export function checkAsked(asked: Asked): void {
  if (!["wasm", "webgpu", "auto"].includes(asked)) throw new ConfigError(`backend='${asked}': expected 'wasm', 'webgpu' or 'auto'`);
}

/** Return the one that `open` makes on WebGPU, if it proves itself against the one on WebAssembly; close the other. */
export async function proven<T extends Candidate>(asked: Asked, wasm: T, open: () => Promise<T>): Promise<Chosen<T>> {
  if (asked === "wasm") return { made: wasm, why: {} };
  let gpu: T | null = null;
  try {
    if (asked === "auto" && (await isSoftware())) throw new BackendError("WebGPU runs in software here, not on a GPU");
    gpu = await open();
    if (!(await gpu.verify()).passed) throw new BackendError("WebGPU gives other answers here than the stored ones");
    const why = asked === "auto" ? await faster(gpu, wasm) : "asked for";
    wasm.close();
    return { made: gpu, why: { webgpu: why } };
  } catch (error) {
    gpu?.close();
    return { made: wasm, why: { webgpu: error instanceof Error ? error.message : String(error) } };
  }
}

/** A browser's WebGPU without a GPU takes minutes to begin with. */
async function isSoftware(): Promise<boolean> {
  const adapter = "gpu" in navigator ? await navigator.gpu.requestAdapter() : null;
  return adapter?.info.isFallbackAdapter ?? false;
}

/** Say how much faster the first one replays the stored answers, or raise; both have been opened, the first has replayed them. */
async function faster(gpu: Candidate, wasm: Candidate): Promise<string> {
  const times: [number[], number[]] = [[], []];
  do {
    for (const [n, one] of [gpu, wasm].entries()) {
      const begin = performance.now();
      await one.verify();
      times[n].push(performance.now() - begin);
    }
  } while (times[0].length < ROUNDS && times[0][0] < HOPELESS * times[1][0]);
  const [ours, its] = times.map((ms) => Math.min(...ms));
  const words = `the stored answers take ${ours.toFixed(0)} ms, WebAssembly ${its.toFixed(0)} ms`;
  if (!(ours < its)) throw new BackendError(`WebGPU is not faster here: ${words}`);
  return `faster: ${words}`;
}
