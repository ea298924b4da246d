/** Files behind a URL: fetched whole, unpacked where the site has them packed, compared with their hash. */

import { BackendError, BundleError, ValueError } from "./errors.ts";

export const COPY_AGAIN = "copy the whole bundle again";

/** Told while a file arrives: bytes so far, and how many there are (0: unknown). */
export type OnProgress = (done: number, total: number, what: string) => void;

/** Return a file's bytes; null where there is none (404). `packed`: the site holds it as `NAME.gz`. */
export async function fetched(url: string, options: { packed?: boolean; mostBytes?: number; onProgress?: OnProgress | undefined } = {}): Promise<Uint8Array<ArrayBuffer> | null> {
  const address = options.packed ? `${url}.gz` : url;
  let response: Response;
  try {
    // The server is asked each time whether the file is still the same: a bundle may be exported anew.
    response = await fetch(address, { credentials: "same-origin", cache: "no-cache" });
  } catch (error) {
    throw new BundleError(`${address}: cannot be read (${(error as Error).message})`, "check the address and the connection");
  }
  if (response.status === 404) return null;
  if (!response.ok) throw new BundleError(`${address}: cannot be read (HTTP ${response.status})`, "check the address");
  const bytes = await received(response, address, options.mostBytes ?? Infinity, options.onProgress);
  return options.packed && bytes[0] === 0x1f && bytes[1] === 0x8b ? unpacked(bytes, "gzip") : bytes;
}

/** Read a body up to a size, so that nobody's file without an end takes all memory. */
async function received(response: Response, where: string, mostBytes: number, onProgress?: OnProgress): Promise<Uint8Array<ArrayBuffer>> {
  const total = Number(response.headers.get("content-length") ?? 0);
  const tooLarge = (size: number) => new ValueError(`${size} bytes, expected at most ${mostBytes}`);
  if (total > mostBytes) throw tooLarge(total);
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

/** Unpack bytes; a text is thrown where they are damaged, or larger than `mostBytes`. */
export async function unpacked(bytes: Uint8Array<ArrayBuffer>, format: "gzip" | "deflate-raw", mostBytes = Infinity): Promise<Uint8Array<ArrayBuffer>> {
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream(format));
  return received(new Response(stream), "", mostBytes);
}

/** Return the hex sha256. */
export async function sha256(bytes: Uint8Array<ArrayBuffer>): Promise<string> {
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
