/** What the page and the worker say to each other. */

import type { PlainError } from "./errors.ts";

/** A request: objects of the worker have numbers that the page chooses. */
export interface Request {
  id: number;
  call: string;
  target: number;
  args: unknown[];
}

export type Reply = { id: number; value: unknown } | { id: number; error: PlainError } | { id: number; progress: [done: number, total: number, what: string] };
