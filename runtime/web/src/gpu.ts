/** WebGPU is taken where it is there, gives the stored answers, and, with "auto", takes less time than WebAssembly. */

import type { BackendName } from "./engine.ts";
import { BackendError, ConfigError } from "./errors.ts";
import { sha256 } from "./files.ts";

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
const KEPT_MS = 30 * 24 * 3600 * 1000; // a driver may become faster

export function checkAsked(asked: Asked): void {
  if (!["wasm", "webgpu", "auto"].includes(asked)) throw new ConfigError(`backend='${asked}': expected 'wasm', 'webgpu' or 'auto'`);
}

/** Return the one that `open` makes on WebGPU, if it proves itself against the one on WebAssembly; close the other. */
export async function proven<T extends Candidate>(asked: Asked, wasm: T, what: string, open: () => Promise<T>): Promise<Chosen<T>> {
  if (asked === "wasm") return { made: wasm, why: {} };
  let gpu: T | null = null;
  try {
    const memory = asked === "auto" ? await Memory.of(what) : null;
    const known = (await memory?.recall()) ?? null;
    if (known && !known.taken) throw new BackendError(known.why);
    gpu = await open();
    const isRight = (await gpu.verify()).passed;
    const asAsked = { taken: isRight, why: isRight ? "asked for" : "WebGPU gives other answers here than the stored ones" };
    const verdict = isRight && asked === "auto" ? (known ?? (await compared(gpu, wasm))) : asAsked;
    if (verdict !== known) await memory?.keep(verdict);
    if (!verdict.taken) throw new BackendError(verdict.why);
    wasm.close();
    return { made: gpu, why: { webgpu: verdict.why } };
  } catch (error) {
    gpu?.close();
    return { made: wasm, why: { webgpu: error instanceof Error ? error.message : String(error) } };
  }
}

interface Verdict {
  taken: boolean;
  why: string;
}

/** Say which of the two replays the stored answers faster; both have been opened, the first has replayed them. */
async function compared(gpu: Candidate, wasm: Candidate): Promise<Verdict> {
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
  return { taken: ours < its, why: ours < its ? `faster: ${words}` : `WebGPU is not faster here: ${words}` };
}

/** Keeps the verdict on one model, engine, GPU and browser: the next visit does not compare them again. */
class Memory {
  private constructor(private readonly cache: Cache, private readonly address: string) {}

  /** Return null where there is no adapter, or where this browser keeps nothing; throw for an adapter in software. */
  static async of(what: string): Promise<Memory | null> {
    const info = "gpu" in navigator ? (await navigator.gpu.requestAdapter())?.info : null;
    if (!info) return null;
    // A browser's WebGPU without a GPU takes minutes to begin with.
    if (info.isFallbackAdapter) throw new BackendError("WebGPU runs in software here, not on a GPU");
    const { vendor, architecture, device, description } = info;
    const key = await sha256(new TextEncoder().encode(JSON.stringify([what, vendor, architecture, device, description, navigator.userAgent])));
    const cache = await caches.open("spoter webgpu").catch(() => null);
    return cache && new Memory(cache, new URL(`/spoter-webgpu/${key}`, self.origin).href);
  }

  async recall(): Promise<Verdict | null> {
    const kept = await this.cache.match(this.address);
    if (!kept) return null;
    const { taken, why, at_ms } = await kept.json();
    return Date.now() - at_ms < KEPT_MS ? { taken, why: `${why}, measured on ${new Date(at_ms).toISOString().slice(0, 10)}` } : null;
  }

  async keep(verdict: Verdict): Promise<void> {
    await this.cache.put(this.address, new Response(JSON.stringify({ ...verdict, at_ms: Date.now() }))).catch(() => undefined); // no room
  }
}
