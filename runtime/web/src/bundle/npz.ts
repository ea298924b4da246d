/** Read arrays of a NumPy archive; their sizes are checked before they are unpacked. */

import { ValueError } from "../errors.ts";
import { unpacked } from "../files.ts";

export interface NumpyArray {
  shape: number[];
  dtype: string;
  data: Float32Array | Float64Array | Int32Array | Uint8Array;
}

interface Member {
  method: number;
  packedBytes: number;
  bytes: number;
  header: number;
}

const TYPES: Record<string, [string, new (buffer: ArrayBuffer) => NumpyArray["data"]]> = {
  "<f4": ["float32", Float32Array],
  "<f8": ["float64", Float64Array],
  "<i4": ["int32", Int32Array],
  "|u1": ["uint8", Uint8Array],
};

/** Return these arrays of an archive; others are not read. */
export async function readArrays(archive: Uint8Array<ArrayBuffer>, names: readonly string[], mostBytes: number): Promise<NumpyArray[]> {
  const members = membersOf(archive);
  const missing = names.filter((name) => !members.has(`${name}.npy`));
  if (missing.length) throw new ValueError(`no array ${missing.join(", ")} in it`);
  const chosen = names.map((name) => members.get(`${name}.npy`)!);
  const size = chosen.reduce((sum, member) => sum + member.bytes, 0);
  if (size > mostBytes) throw new ValueError(`${size} bytes when unpacked, expected at most ${mostBytes}`);
  return Promise.all(chosen.map(async (member) => arrayFrom(await contentOf(archive, member))));
}

/** Return the names of all arrays of an archive. */
export const namesOf = (archive: Uint8Array<ArrayBuffer>) => [...membersOf(archive).keys()].map((name) => name.replace(/\.npy$/, ""));

function membersOf(archive: Uint8Array): Map<string, Member> {
  const view = new DataView(archive.buffer, archive.byteOffset, archive.byteLength);
  const none = () => new ValueError("is no archive of arrays: File is not a zip file");
  let end = archive.length - 22;
  while (end >= 0 && view.getUint32(end, true) !== 0x06054b50) end--;
  if (end < 0) throw none();
  const found = new Map<string, Member>();
  let at = view.getUint32(end + 16, true);
  for (let n = view.getUint16(end + 10, true); n > 0; n--) {
    if (at + 46 > archive.length || view.getUint32(at, true) !== 0x02014b50) throw none();
    const [nameBytes, extraBytes, remarkBytes] = [28, 30, 32].map((offset) => view.getUint16(at + offset, true));
    if (view.getUint16(at + 8, true) & 1) throw new ValueError("is no archive of arrays: it is encrypted");
    found.set(new TextDecoder().decode(archive.subarray(at + 46, at + 46 + nameBytes)), {
      method: view.getUint16(at + 10, true),
      packedBytes: view.getUint32(at + 20, true),
      bytes: view.getUint32(at + 24, true),
      header: view.getUint32(at + 42, true),
    });
    at += 46 + nameBytes + extraBytes + remarkBytes;
  }
  return found;
}

async function contentOf(archive: Uint8Array<ArrayBuffer>, member: Member): Promise<Uint8Array<ArrayBuffer>> {
  const view = new DataView(archive.buffer, archive.byteOffset, archive.byteLength);
  if (member.header + 30 > archive.length || view.getUint32(member.header, true) !== 0x04034b50) throw new ValueError("is no archive of arrays: a member is not where it should be");
  const begin = member.header + 30 + view.getUint16(member.header + 26, true) + view.getUint16(member.header + 28, true);
  const packed = archive.subarray(begin, begin + member.packedBytes);
  if (packed.length < member.packedBytes) throw new ValueError("is no archive of arrays: it is cut off");
  if (member.method === 0) return packed;
  if (member.method !== 8) throw new ValueError(`is no archive of arrays: packed in way ${member.method}`);
  try {
    return await unpacked(packed, "deflate-raw", member.bytes);
  } catch (error) {
    throw new ValueError(`is no archive of arrays: ${(error as Error).message}`);
  }
}

/** Return the array of a `.npy` file. */
export function arrayFrom(content: Uint8Array<ArrayBuffer>): NumpyArray {
  const version = content[6];
  if (String.fromCharCode(...content.subarray(1, 6)) !== "NUMPY" || (version !== 1 && version !== 2)) throw new ValueError("a wrong header");
  const view = new DataView(content.buffer, content.byteOffset, content.byteLength);
  const begin = version === 1 ? 10 : 12;
  const size = version === 1 ? view.getUint16(8, true) : view.getUint32(8, true);
  const header = new TextDecoder("latin1").decode(content.subarray(begin, begin + size));
  const [, dtype] = /'descr': '([^']+)'/.exec(header) ?? [];
  const [, inside] = /'shape': \(([\d, ]*)\)/.exec(header) ?? [];
  if (dtype === undefined || inside === undefined) throw new ValueError("a wrong header");
  if (!TYPES[dtype]) throw new ValueError(`holds ${dtype}, expected one of ${Object.keys(TYPES).join(", ")}`);
  if (header.includes("'fortran_order': True")) throw new ValueError("holds an array in Fortran's order");
  const shape = inside.split(",").filter((part) => part.trim()).map(Number);
  const [name, made] = TYPES[dtype];
  const bytes = shape.reduce((a, b) => a * b, 1) * Number(dtype.slice(-1));
  const data = content.slice(begin + size, begin + size + bytes);
  if (data.length < bytes) throw new ValueError("is cut off");
  return { shape, dtype: name, data: new made(data.buffer) };
}
