/** ONNX Runtime Web: loaded from the site's own folder, one thread of WebAssembly unless asked otherwise; or WebGPU. */

import type * as Ort from "onnxruntime-common";
import type { Contract } from "./bundle/contract.ts";
import { BackendError, SpoterError } from "./errors.ts";
import { checkDigest, fetched, OTHER_BYTES, type OnProgress } from "./files.ts";
import { NUM_FEATURES } from "./landmarks.ts";

/** By the names that Python's backends would have. */
export type BackendName = "wasm" | "webgpu";

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

const COPY_SITE = "copy the whole site again";
// Of the two builds with WebGPU the one that waits by JSPI: 4.1 MB packed, the other 6.7 MB.
const FILES: Record<BackendName, { script: string; wasm: string; fix: string }> = {
  wasm: { script: "ort.wasm.bundle.min.mjs", wasm: "ort-wasm-simd-threaded.wasm", fix: COPY_SITE },
  webgpu: { script: "ort.jspi.bundle.min.mjs", wasm: "ort-wasm-simd-threaded.jspi.wasm", fix: "spoter-kit export BUNDLE --web SITE --webgpu" },
};

// (module (func (result v128) i32.const 0 i8x16.splat i8x16.popcnt)): valid only where SIMD is there.
const SIMD = Uint8Array.of(0, 97, 115, 109, 1, 0, 0, 0, 1, 5, 1, 96, 0, 1, 123, 3, 2, 1, 0, 10, 10, 1, 8, 0, 65, 0, 253, 15, 253, 98, 11);

/** Raise where this browser cannot run the engine at all. */
export function checkBrowser(): void {
  const fix = "a current Chrome, Edge, Firefox or Safari";
  if (typeof WebAssembly !== "object") throw new BackendError("this browser has no WebAssembly, which the model needs", fix);
  if (!WebAssembly.validate(SIMD)) throw new BackendError("this browser's WebAssembly has no SIMD, which the model needs", fix);
}

/** Raise where this browser has no WebGPU that the engine can use. */
async function checkAdapter(): Promise<void> {
  if (!("gpu" in navigator)) throw new BackendError("this browser has no WebGPU");
  if (!("Suspending" in WebAssembly)) throw new BackendError("this browser's WebAssembly cannot wait for a GPU: it has no JSPI");
  if (!(await (navigator.gpu as GPU).requestAdapter())) throw new BackendError("WebGPU finds no GPU here that it may use");
}

/** The engine's folder, and its WebAssembly after comparing it with its hash: another worker starts with them. */
export interface EngineFiles {
  backend: BackendName;
  base: string;
  binary: ArrayBuffer;
}

export interface Engine {
  ort: typeof Ort;
  files: EngineFiles;
}

/** The engines of one folder, each loaded once, when it is first asked for. */
export class Engines {
  private readonly loading = new Map<BackendName, Promise<Engine>>();

  constructor(private readonly options: EngineOptions) {}

  /** Names their versions, where the site states them. */
  get name(): string {
    return JSON.stringify(this.options.hashes ?? {});
  }

  load(backend: BackendName, onProgress?: OnProgress): Promise<Engine> {
    if (!this.loading.has(backend)) this.loading.set(backend, loadEngine(backend, this.options, onProgress));
    return this.loading.get(backend)!;
  }
}

/** Its WebAssembly is fetched here, so that nothing else decides where from. */
async function loadEngine(backend: BackendName, options: EngineOptions, onProgress?: OnProgress): Promise<Engine> {
  checkBrowser();
  if (backend === "webgpu") await checkAdapter();
  const { wasm, fix } = FILES[backend];
  const base = options.engine.endsWith("/") ? options.engine : `${options.engine}/`;
  const [script, binary] = await Promise.all([scriptOf(base, backend), fetched(base + wasm, { mostBytes: OTHER_BYTES, packed: options.packed?.includes(wasm) ?? false, onProgress })]).catch((error) => {
    throw error instanceof BackendError ? error : new BackendError(`${base}: the engine cannot be loaded: ${error instanceof SpoterError ? error.reason : (error as Error).message}`, fix);
  });
  if (!binary) throw new BackendError(`${base}${wasm}: is not there`, fix);
  if (options.hashes?.[wasm]) await checkDigest(base + wasm, binary, options.hashes[wasm], COPY_SITE);
  const files = { backend, base, binary: binary.buffer };
  return started(script, files, options.threads ?? 1);
}

/** Start the engine in another worker, on one thread. */
export async function startEngine(files: EngineFiles): Promise<Engine> {
  return started(await scriptOf(files.base, files.backend), files, 1);
}

const scriptOf = (base: string, backend: BackendName): Promise<typeof Ort> => import(/* @vite-ignore */ base + FILES[backend].script);

function started(ort: typeof Ort, files: EngineFiles, threads: number): Engine {
  ort.env.wasm.wasmBinary = files.binary;
  ort.env.wasm.numThreads = threads;
  ort.env.logLevel = "error";
  return { ort, files };
}

/** Open an ONNX file; `where` names it in errors; `optimise` one that was not optimised before. */
export async function openSession({ ort, files }: Engine, model: Uint8Array, where: string, optimise = true): Promise<Ort.InferenceSession> {
  try {
    return await ort.InferenceSession.create(model, { executionProviders: [files.backend], graphOptimizationLevel: optimise ? "all" : "disabled", logSeverityLevel: 3 });
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
