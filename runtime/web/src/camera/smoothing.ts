/** The One Euro filter (Casiez, Roussel and Vogel 2012): smooths slow points, delays fast ones little. */

export class OneEuroFilter {
  private raw: Float64Array | null = null;
  private speed = new Float64Array();
  private smooth: Float64Array = new Float64Array();

  constructor(private readonly minCutoff: number, private readonly beta: number) {}

  reset(): void {
    this.raw = null;
  }

  /** Return the values, smoothed. `scale`: the object's size, so that its speed is in sizes a second. */
  next(values: Float64Array, elapsedS: number, scale: number): Float64Array {
    const raw = this.raw;
    this.raw = values;
    if (!raw) {
      this.speed = new Float64Array(values.length);
      return (this.smooth = values);
    }
    this.smooth = this.smooth.map((before, i) => {
      const speed = (values[i] - raw[i]) / (scale * elapsedS);
      this.speed[i] += weight(1, elapsedS) * (speed - this.speed[i]);
      const cutoff = this.minCutoff + this.beta * Math.abs(this.speed[i]);
      return before + weight(cutoff, elapsedS) * (values[i] - before);
    });
    return this.smooth;
  }
}

/** How much of a new value a low-pass filter of this cutoff frequency takes. */
const weight = (cutoff: number, elapsedS: number) => 1 / (1 + 1 / (2 * Math.PI * cutoff * elapsedS));
