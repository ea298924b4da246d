/** Numbers and texts as Python writes them: messages and the seal of a manifest are the same in both. */

/** `f"{value:.{digits}f}"`: ties go to the even digit. */
export function fixed(value: number, digits: number): string {
  const scaled = value * 2 ** (digits + 1); // exact; a tie is a whole number of half steps
  const steps = value * 10 ** digits;
  if (Number.isInteger(scaled) && Math.abs(steps - Math.trunc(steps)) === 0.5) {
    const low = Math.floor(steps);
    return ((low % 2 === 0 ? low : low + 1) / 10 ** digits).toFixed(digits);
  }
  return value.toFixed(digits);
}

/** `round(value, digits)`. */
export function round(value: number, digits: number): number {
  return Number(fixed(value, digits));
}

/** `f"{value:.{most}g}"`: so many digits, no zeros behind the point. */
export function general(value: number, most = 6): string {
  if (!Number.isFinite(value)) return floatText(value);
  const [digits, exponent] = value.toExponential(most - 1).split("e");
  const power = Number(exponent);
  if (power < -4 || power >= most) return `${trimmed(digits)}e${power < 0 ? "-" : "+"}${String(Math.abs(power)).padStart(2, "0")}`;
  return trimmed(value.toFixed(most - 1 - power));
}

const trimmed = (digits: string) => (digits.includes(".") ? digits.replace(/\.?0+$/, "") : digits);

/** `repr` of a Python float. */
export function floatText(value: number): string {
  if (!Number.isFinite(value)) return Number.isNaN(value) ? "nan" : value < 0 ? "-inf" : "inf";
  if (Object.is(value, -0)) return "-0.0";
  const [digits, exponent] = value.toExponential().split("e");
  const power = Number(exponent);
  if (power < -4 || power >= 16) return `${digits}e${power < 0 ? "-" : "+"}${String(Math.abs(power)).padStart(2, "0")}`;
  const text = power >= 0 ? value.toFixed(Math.max(digits.replace(/[-.]/g, "").length - 1 - power, 1)) : decimal(digits, power);
  return text;
}

/** A number below 1 without an exponent: JavaScript has one below 1e-6 only, but `toFixed` would round. */
function decimal(digits: string, power: number): string {
  const sign = digits.startsWith("-") ? "-" : "";
  return `${sign}0.${"0".repeat(-power - 1)}${digits.replace(/[-.]/g, "")}`;
}

/** `repr` of a Python text. */
export function textRepr(text: string): string {
  const quote = text.includes("'") && !text.includes('"') ? '"' : "'";
  const escaped = Array.from(text, (letter) => {
    const code = letter.codePointAt(0)!;
    if (letter === "\\" || letter === quote) return `\\${letter}`;
    if (letter === "\n") return "\\n";
    if (letter === "\r") return "\\r";
    if (letter === "\t") return "\\t";
    if (code < 0x20 || code === 0x7f) return `\\x${code.toString(16).padStart(2, "0")}`;
    return code >= 0xd800 && code < 0xe000 ? `\\u${code.toString(16)}` : letter;
  });
  return `${quote}${escaped.join("")}${quote}`;
}

/** A tuple: `(3, 54, 2)`, `(3,)`. */
export function tupleText(values: readonly (number | string)[]): string {
  return values.length === 1 ? `(${values[0]},)` : `(${values.join(", ")})`;
}
