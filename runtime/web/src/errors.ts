/** The errors of the Python runtime, by the same names; `kind` survives the way out of the worker. */

export type ErrorKind = "SpoterError" | "InputError" | "BundleError" | "BackendError" | "NotFiniteError" | "ConfigError" | "DataError";

/** Base of every error raised on purpose; its message is what is wrong, then the fix. */
export class SpoterError extends Error {
  readonly kind: ErrorKind = "SpoterError";

  constructor(readonly reason: string, readonly fix = "") {
    super(fix ? `${reason}${/[.?]$/.test(reason) ? "" : "."} Fix: ${fix}` : reason);
  }

  override get name(): string {
    return this.kind;
  }
}

/** A clip or an array that the graph contract does not allow. */
export class InputError extends SpoterError {
  override readonly kind: ErrorKind = "InputError";
}

/** A bundle that is missing, damaged, foreign or of a newer schema. */
export class BundleError extends SpoterError {
  override readonly kind: ErrorKind = "BundleError";
}

/** An engine that cannot be loaded or cannot run in this browser. */
export class BackendError extends SpoterError {
  override readonly kind: ErrorKind = "BackendError";
}

/** An engine ran, and its logits hold a NaN or an infinity. */
export class NotFiniteError extends BackendError {
  override readonly kind: ErrorKind = "NotFiniteError";
}

/** A setting with an unknown name or a value out of range. */
export class ConfigError extends SpoterError {
  override readonly kind: ErrorKind = "ConfigError";
}

/** A log or another file that cannot be used. */
export class DataError extends SpoterError {
  override readonly kind: ErrorKind = "DataError";
}

const CLASSES = { SpoterError, InputError, BundleError, BackendError, NotFiniteError, ConfigError, DataError };

/** A wrong value in a file, before somebody knows in which; becomes one of the errors above. */
export class ValueError extends Error {}

/** An error as plain values, for a message between threads. */
export interface PlainError {
  kind: ErrorKind | "";
  reason: string;
  fix: string;
}

export function plainFromError(error: unknown): PlainError {
  if (error instanceof SpoterError) return { kind: error.kind, reason: error.reason, fix: error.fix };
  return { kind: "", reason: error instanceof Error ? `${error.name}: ${error.message}` : String(error), fix: "" };
}

export function errorFromPlain(plain: PlainError): Error {
  return plain.kind ? new CLASSES[plain.kind](plain.reason, plain.fix) : new Error(plain.reason);
}
