/** ONNX Runtime Web: loaded from the site's own folder, one thread of WebAssembly unless asked otherwise. */

import type * as Ort from "onnxruntime-common";
import { BackendError } from "./errors.ts";
import { checkDigest, fetched, type OnProgress } from "./files.ts";

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
const WASM = "ort-wasm-simd-threaded.wasm";

// (module (func (result v128) i32.const 0 i8x16.splat i8x16.popcnt)): valid only where SIMD is there.
const SIMD = Uint8Array.of(0, 97, 115, 109, 1, 0, 0, 0, 1, 5, 1, 96, 0, 1, 123, 3, 2, 1, 0, 10, 10, 1, 8, 0, 65, 0, 253, 15, 253, 98, 11);

/** Raise where this browser cannot run the engine at all. */
export function checkBrowser(): void {
  const fix = "a current Chrome, Edge, Firefox or Safari";
  if (typeof WebAssembly !== "object") throw new BackendError("this browser has no WebAssembly, which the model needs", fix);
  if (!WebAssembly.validate(SIMD)) throw new BackendError("this browser's WebAssembly has no SIMD, which the model needs", fix);
}

/** Load the engine; its WebAssembly is fetched here, so that nothing else decides where from. */
export async function loadEngine(options: EngineOptions, onProgress?: OnProgress): Promise<typeof Ort> {
  checkBrowser();
  const base = options.engine.endsWith("/") ? options.engine : `${options.engine}/`;
  const [ort, binary] = await Promise.all([
    import(/* @vite-ignore */ base + SCRIPT) as Promise<typeof Ort>,
    fetched(base + WASM, { packed: options.packed?.includes(WASM) ?? false, onProgress }),
  ]).catch((error) => {
    throw error instanceof BackendError ? error : new BackendError(`${base}: the engine cannot be loaded: ${(error as Error).message}`, "copy the whole site again");
  });
  if (!binary) throw new BackendError(`${base}${WASM}: is not there`, "copy the whole site again");
  if (options.hashes?.[WASM]) await checkDigest(base + WASM, binary, options.hashes[WASM], "copy the whole site again");
  ort.env.wasm.wasmBinary = binary.buffer;
  ort.env.wasm.numThreads = options.threads ?? 1;
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
