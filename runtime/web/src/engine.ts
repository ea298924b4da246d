/** ONNX Runtime Web: loaded from the site's own folder, one thread of WebAssembly unless asked otherwise. */

import type * as Ort from "onnxruntime-common";
import type { Contract } from "./bundle/contract.ts";
import { BackendError } from "./errors.ts";
import { checkDigest, fetched, type OnProgress } from "./files.ts";
import { NUM_FEATURES } from "./landmarks.ts";

/** The only one so far, by the name that Python's backends would have. */
export const BACKEND = "wasm";

/** Where the engine lies and how it runs. */
export interface EngineOptions {
  /** Folder of the engine's files. */
  engine: string;
  /** Threads of WebAssembly; more than one needs the headers COOP and COEP. */
  threads?: number;
  /** File → sha256, where the site states them. */
  hashes?: Record<string, string>;
  /** Files that the site holds packed, as NAME.gz. */
  packed?: readonly string[];
}

const SCRIPT = "ort.wasm.bundle.min.mjs";
const COPY_SITE = "copy the whole site again";
const WASM = "ort-wasm-simd-threaded.wasm";

// (module (func (result v128) i32.const 0 i8x16.splat i8x16.popcnt)): valid only where SIMD is there.
const SIMD = Uint8Array.of(0, 97, 115, 109, 1, 0, 0, 0, 1, 5, 1, 96, 0, 1, 123, 3, 2, 1, 0, 10, 10, 1, 8, 0, 65, 0, 253, 15, 253, 98, 11);

/** Raise where this browser cannot run the engine at all. */
export function checkBrowser(): void {
  const fix = "a current Chrome, Edge, Firefox or Safari";
  if (typeof WebAssembly !== "object") throw new BackendError("this browser has no WebAssembly, which the model needs", fix);
  if (!WebAssembly.validate(SIMD)) throw new BackendError("this browser's WebAssembly has no SIMD, which the model needs", fix);
}

/** The engine's folder, and its WebAssembly after comparing it with its hash: another worker starts with them. */
export interface EngineFiles {
  base: string;
  binary: ArrayBuffer;
}

export interface Engine {
  ort: typeof Ort;
  files: EngineFiles;
}

/** Load the engine; its WebAssembly is fetched here, so that nothing else decides where from. */
export async function loadEngine(options: EngineOptions, onProgress?: OnProgress): Promise<Engine> {
  checkBrowser();
  const base = options.engine.endsWith("/") ? options.engine : `${options.engine}/`;
  const [script, binary] = await Promise.all([scriptOf(base), fetched(base + WASM, { packed: options.packed?.includes(WASM) ?? false, onProgress })]).catch((error) => {
    throw error instanceof BackendError ? error : new BackendError(`${base}: the engine cannot be loaded: ${(error as Error).message}`, COPY_SITE);
  });
  if (!binary) throw new BackendError(`${base}${WASM}: is not there`, COPY_SITE);
  if (options.hashes?.[WASM]) await checkDigest(base + WASM, binary, options.hashes[WASM], COPY_SITE);
  const files = { base, binary: binary.buffer };
  return { ort: started(script, files, options.threads ?? 1), files };
}

/** Start the engine in another worker, on one thread. */
export async function startEngine(files: EngineFiles): Promise<typeof Ort> {
  return started(await scriptOf(files.base), files, 1);
}

const scriptOf = (base: string): Promise<typeof Ort> => import(/* @vite-ignore */ base + SCRIPT);

function started(ort: typeof Ort, { binary }: EngineFiles, threads: number): typeof Ort {
  ort.env.wasm.wasmBinary = binary;
  ort.env.wasm.numThreads = threads;
  ort.env.logLevel = "error";
  return ort;
}

/** Open an ONNX file; `where` names it in errors. */
export async function openSession(ort: typeof Ort, model: Uint8Array, where: string): Promise<Ort.InferenceSession> {
  try {
    return await ort.InferenceSession.create(model, { executionProviders: [BACKEND], graphOptimizationLevel: "all", logSeverityLevel: 3 });
  } catch (error) {
    throw new BackendError(`${where}: ONNX Runtime Web cannot load it: ${(error as Error).message ?? error}`);
  }
}

const VARYING = new Map([["poses", ["batch", "frames"]], ["lengths", ["batch"]], ["logits", ["batch"]]]);

/** Check a session's inputs and outputs: names, types and shapes, whatever a varying axis is called. */
export function checkTensors(session: Ort.InferenceSession, contract: Contract, where: string): void {
  const expected = new Map([
    ["poses", `input float32 (batch, frames, ${NUM_FEATURES})`],
    ["lengths", "input int32 (batch)"],
    ["logits", `output float32 (batch, ${contract.labels.length})`],
  ]);
  const found = new Map<string, string>();
  for (const [kind, values] of [["input", session.inputMetadata], ["output", session.outputMetadata]] as const)
    for (const value of values) {
      const varying = VARYING.get(value.name) ?? [];
      const axes = value.isTensor ? value.shape.map((size, i) => (typeof size === "number" ? String(size) : (varying[i] ?? "?"))) : [];
      found.set(value.name, `${kind} ${value.isTensor ? value.type : "no tensor"} (${axes.join(", ")})`);
    }
  for (const name of [...expected.keys(), ...found.keys()]) {
    const wanted = expected.get(name) ?? "none", got = found.get(name) ?? "none";
    if (got !== wanted) throw new BackendError(`${where}: the model is not what its contract says: ${name}: expected ${wanted}, got ${got}`, "export the bundle again");
  }
}
