/** Files behind a URL: fetched whole, unpacked where the site has them packed, compared with their hash. */

import { BackendError, BundleError, ValueError } from "./errors.ts";

export const COPY_AGAIN = "copy the whole bundle again";
// The most bytes of a file: it is not kept, and not hashed, if it has more. As in Python.
export const MODEL_BYTES = 2 ** 31; // no ONNX file can have more
export const OTHER_BYTES = 2 ** 26;

/** Told while a file arrives: bytes so far, and how many there are (0: unknown). */
export type OnProgress = (done: number, total: number, what: string) => void;

/** `packed`: the site holds the file as `NAME.gz`; `mostBytes`: of it, unpacked too; `note`: what an error says before "cannot be read". */
interface Fetching {
  mostBytes: number;
  packed?: boolean;
  note?: string;
  onProgress?: OnProgress | undefined;
}

/** Return a file's bytes; null where there is none (404). */
export async function fetched(url: string, { mostBytes, packed = false, note = "", onProgress }: Fetching): Promise<Uint8Array<ArrayBuffer> | null> {
  const address = packed ? `${url}.gz` : url;
  let response: Response;
  try {
    // The server is asked each time whether the file is still the same: a bundle may be exported anew.
    response = await fetch(address, { credentials: "same-origin", cache: "no-cache" });
  } catch (error) {
    throw new BundleError(`${address}: cannot be read (${(error as Error).message})`, "check the address and the connection");
  }
  if (response.status === 404) return null;
  if (!response.ok) throw new BundleError(`${address}: cannot be read (HTTP ${response.status})`, "check the address");
  try {
    const bytes = await received(response, address, mostBytes, onProgress);
    return packed && bytes[0] === 0x1f && bytes[1] === 0x8b ? await unpacked(bytes, "gzip", mostBytes) : bytes;
  } catch (error) {
    throw new BundleError(`${address}: ${note}cannot be read (${(error as Error).message})`, error instanceof ValueError ? COPY_AGAIN : "check the connection, and load the page again");
  }
}

/** Read a body up to a size, so that nobody's file without an end takes all memory. */
async function received(response: Response, where: string, mostBytes: number, onProgress?: OnProgress): Promise<Uint8Array<ArrayBuffer>> {
  const total = Number(response.headers.get("content-length") ?? 0);
  const tooLarge = (size: number) => new ValueError(`${size} bytes, expected at most ${mostBytes}`);
  if (total > mostBytes) {
    void response.body?.cancel();
    throw tooLarge(total);
  }
  const parts: Uint8Array[] = [];
  let size = 0;
  for await (const part of response.body ?? []) {
    parts.push(part);
    size += part.length;
    if (size > mostBytes) throw tooLarge(size);
    onProgress?.(size, total, where);
  }
  const made = new Uint8Array(size);
  let at = 0;
  for (const part of parts) {
    made.set(part, at);
    at += part.length;
  }
  return made;
}

/** Unpack bytes; throw a ValueError where they are damaged, or as soon as they are more than `mostBytes`. */
export async function unpacked(bytes: Uint8Array<ArrayBuffer>, format: "gzip" | "deflate-raw", mostBytes: number): Promise<Uint8Array<ArrayBuffer>> {
  try {
    return await received(new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream(format))), "", mostBytes);
  } catch (error) {
    throw new ValueError((error as Error).message);
  }
}

/** Return the hex sha256. */
export async function sha256(bytes: Uint8Array<ArrayBuffer> | ArrayBuffer): Promise<string> {
  if (!globalThis.crypto?.subtle)
    throw new BackendError("this page is not in a secure context, so files cannot be checked and no camera can be opened", "serve it over https, or open it as http://localhost");
  const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", bytes));
  return Array.from(digest, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

/** Raise unless the bytes have the expected hash. */
export async function checkDigest(where: string, bytes: Uint8Array<ArrayBuffer>, expected: string, fix = COPY_AGAIN): Promise<void> {
  const digest = await sha256(bytes);
  if (digest !== expected)
    throw new BundleError(`${where}: sha256 is ${digest.slice(0, 12)}…, expected ${expected.slice(0, 12)}…, so the file was changed or damaged`, fix);
}
