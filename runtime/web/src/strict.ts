/** Read JSON that somebody else wrote as strictly as the Python runtime, and with the same reasons. */

import { ValueError } from "./errors.ts";
import { floatText, textRepr } from "./python.ts";

/** A number of a JSON text: its type is in its spelling, which JavaScript's own parser forgets. */
export class JsonNumber {
  constructor(readonly text: string) {}
  get isFloat(): boolean {
    return /[.eE]/.test(this.text);
  }
  get value(): number {
    return Number(this.text);
  }
}

export type Json = null | boolean | string | JsonNumber | Json[] | Map<string, Json>;

const MOST_DEPTH = 64;
const MOST_DIGITS = 19;
const SHOWN = 60;
const NUMBER = /-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][-+]?\d+)?/y;
const STRING = /"((?:[^"\\\x00-\x1f]|\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4}))*)"/y;
const SPACE = /[ \t\n\r]*/y;
const WORDS: Record<string, null | boolean> = { null: null, true: true, false: false };

/** Parse JSON: no name twice, no number that is not finite or has more than 19 digits, few levels. */
export function jsonFromText(text: string): Json {
  let at = 0;
  const skip = () => {
    SPACE.lastIndex = at;
    SPACE.exec(text);
    at = SPACE.lastIndex;
  };
  const wrong = (what: string) => new ValueError(`${what} at character ${at}`);
  const match = (pattern: RegExp) => {
    pattern.lastIndex = at;
    const found = pattern.exec(text);
    if (found) at = pattern.lastIndex;
    return found;
  };
  const string = () => {
    const found = match(STRING);
    if (!found) throw wrong("no text");
    return JSON.parse(found[0]) as string;
  };
  const value = (depth: number): Json => {
    if (depth >= MOST_DEPTH) throw new ValueError(`more than ${MOST_DEPTH} levels`);
    skip();
    const first = text[at];
    if (first === "{") return table(depth);
    if (first === "[") return list(depth);
    if (first === '"') return string();
    for (const word of ["null", "true", "false"]) if (text.startsWith(word, at)) return (at += word.length), WORDS[word];
    for (const word of ["NaN", "Infinity", "-Infinity"]) if (text.startsWith(word, at)) throw new ValueError(`${word} is no JSON`);
    const number = match(NUMBER);
    if (!number) throw wrong("no value");
    return checkedNumber(number[0]);
  };
  const table = (depth: number): Json => {
    const made = new Map<string, Json>();
    let twice = "";
    at++;
    skip();
    if (text[at] === "}") return at++, made;
    for (;;) {
      skip();
      const name = string();
      skip();
      if (text[at++] !== ":") throw wrong("no colon");
      const one = value(depth + 1);
      if (made.has(name)) twice ||= name;
      made.set(name, one);
      skip();
      const end = text[at++];
      if (end === "}") break;
      if (end !== ",") throw wrong("no comma");
    }
    if (twice) throw new ValueError(`${shown(twice)} is there twice`);
    return made;
  };
  const list = (depth: number): Json => {
    const made: Json[] = [];
    at++;
    skip();
    if (text[at] === "]") return at++, made;
    for (;;) {
      made.push(value(depth + 1));
      skip();
      const end = text[at++];
      if (end === "]") return made;
      if (end !== ",") throw wrong("no comma");
    }
  };
  const whole = value(1);
  skip();
  if (at < text.length) throw wrong("more than one value");
  return whole;
}

function checkedNumber(text: string): JsonNumber {
  const number = new JsonNumber(text);
  const digits = text.replace("-", "").length;
  if (!number.isFloat && digits > MOST_DIGITS) throw new ValueError(`a number of ${digits} digits`);
  if (!Number.isFinite(number.value)) throw new ValueError(`${shown(text)} is no finite number`);
  return number;
}

/** JSON as Python's `json.dumps(…, sort_keys=True, ensure_ascii=False, separators=(",", ":"))` writes it. */
export function canonical(value: Json): string {
  if (value === null || typeof value === "boolean" || typeof value === "string") return JSON.stringify(value);
  if (value instanceof JsonNumber) return value.isFloat ? floatText(value.value) : BigInt(value.text).toString();
  if (Array.isArray(value)) return `[${value.map(canonical).join(",")}]`;
  const names = [...value.keys()].sort(byCodePoints);
  return `{${names.map((name) => `${JSON.stringify(name)}:${canonical(value.get(name)!)}`).join(",")}}`;
}

/** Python sorts by code points, JavaScript by UTF-16 units: they differ beyond the basic plane. */
function byCodePoints(a: string, b: string): number {
  const left = Array.from(a), right = Array.from(b);
  for (let i = 0; i < Math.min(left.length, right.length); i++) {
    const difference = left[i].codePointAt(0)! - right[i].codePointAt(0)!;
    if (difference) return difference;
  }
  return left.length - right.length;
}

/** A wrong value for a message: cut, and in one line. */
export function shown(value: Json | undefined): string {
  const text = value instanceof Map || Array.isArray(value) ? spaced(value) : reprOf(value);
  const letters = Array.from(text);
  return letters.length <= SHOWN ? text : `${letters.slice(0, SHOWN).join("")}…`;
}

function reprOf(value: Json | undefined): string {
  if (value === null || value === undefined) return "None";
  if (typeof value === "boolean") return value ? "True" : "False";
  if (typeof value === "string") return textRepr(value);
  return value instanceof JsonNumber ? canonical(value) : spaced(value);
}

function spaced(value: Json): string {
  if (Array.isArray(value)) return `[${value.map(spaced).join(", ")}]`;
  if (value instanceof Map) return `{${[...value].map(([name, one]) => `${ascii(name)}: ${spaced(one)}`).join(", ")}}`;
  return typeof value === "string" ? ascii(value) : canonical(value);
}

const ascii = (text: string) => JSON.stringify(text).replace(/[\u0080-\uffff]/g, (unit) => `\\u${unit.charCodeAt(0).toString(16).padStart(4, "0")}`);

/** Takes a value and its path, and returns it as one of a type, or throws a ValueError. */
export type Check<T> = (value: Json | undefined, where: string) => T;

const plain = <T>(is: (value: Json | undefined) => boolean, words: string, made: (value: any) => T): Check<T> => (value, where) => {
  if (!is(value)) throw new ValueError(`${where || "the file"}: ${shown(value)}, expected ${words}`);
  return made(value);
};

const anyText = plain((value) => typeof value === "string", "a text", (value) => value as string);
export const truth = plain((value) => typeof value === "boolean", "true or false", (value) => value as boolean);
export const whole = plain((value) => value instanceof JsonNumber && !value.isFloat, "a whole number", (value) => (value as JsonNumber).value);
export const number = plain((value) => value instanceof JsonNumber, "a number", (value) => (value as JsonNumber).value);
export const anyTable = plain((value) => value instanceof Map, "a table", (value) => value as Map<string, Json>);
const anyList = plain(Array.isArray, "a list", (value) => value as Json[]);

export const text: Check<string> = (value, where) => {
  const found = anyText(value, where);
  if (found.includes("\0") || !isUnicode(found)) throw new ValueError(`${where}: ${shown(found)}, expected a text without zero bytes and half letters`);
  return found;
};

const isUnicode = (value: string) => !/[\ud800-\udbff](?![\udc00-\udfff])|(?<![\ud800-\udbff])[\udc00-\udfff]/.test(value);

export const listOf = <T>(inner: Check<T>): Check<T[]> => (value, where) => anyList(value, where).map((one, i) => inner(one, `${where}[${i}]`));

export const tableOf = <T>(inner: Check<T>): Check<Map<string, T>> => (value, where) => {
  const made = new Map<string, T>();
  for (const [name, one] of anyTable(value, where)) made.set(text(name, where), inner(one, below(where, name)));
  return made;
};

export const pairOf = <T>(inner: Check<T>): Check<[T, T]> => (value, where) => {
  const list = anyList(value, where);
  if (list.length !== 2) throw new ValueError(`${where}: ${list.length} values, expected 2`);
  return [inner(list[0], `${where}[0]`), inner(list[1], `${where}[1]`)];
};

export const orNone = <T>(inner: Check<T>): Check<T | null> => (value, where) => (value === null ? null : inner(value, where));

export const any: Check<Json> = (value) => value ?? null;

/** A table with these fields, in the order of Python's dataclass; a field with a default may be missing. */
export function record<T extends Record<string, unknown>>(fields: { [K in keyof T]: Check<T[K]> }, defaults: Partial<T> = {}): Check<T> {
  return (value, where) => {
    const table = anyTable(value, where);
    const names = Object.keys(fields);
    const unknown = [...table.keys()].filter((name) => !names.includes(name)).sort(byCodePoints);
    if (unknown.length) throw new ValueError(`${below(where, unknown[0])} is unknown, expected ${names.join(", ")}`);
    const missing = names.find((name) => !table.has(name) && !(name in defaults));
    if (missing !== undefined) throw new ValueError(`${below(where, missing)} is missing`);
    const made: Record<string, unknown> = { ...defaults };
    for (const [name, one] of table) made[name] = fields[name](one, below(where, name));
    return made as T;
  };
}

export const below = (where: string, name: string) => (where ? `${where}.${name}` : name);
