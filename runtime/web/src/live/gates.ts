/** Gates: what a frame shows → where a sign begins and ends. They know times and heights, and no labels. */

import { argmax } from "../decision.ts";
import type { Seen } from "./frames.ts";
import type { StreamSettings } from "./settings.ts";

const HANGING = 2.5; // of resting hands below the shoulders, at most
const REST_SECONDS = 20;

/** What a gate found: a sign has begun, it has ended, or it is refused. */
export interface Mark {
  kind: "start" | "end" | "refused";
  start_ms: number;
  end_ms: number;
  code: "" | "long" | "gap";
}

/** A score for each label of a window. */
export type Shares = (startMs: number, endMs: number) => Promise<number[]>;

const mark = (kind: Mark["kind"], start_ms: number, end_ms: number, code: Mark["code"] = ""): Mark => ({ kind, start_ms, end_ms, code });

export interface FindsSegments {
  /** Start of the sign that goes on. */
  readonly openSince: number | null;
  accept(seen: Seen): Mark[] | Promise<Mark[]>;
  /** End what goes on: nothing comes any more, or (`gap`) no wrists were seen for too long. */
  end(t_ms: number, code?: "" | "gap"): Mark[] | Promise<Mark[]>;
}

/**
 * Between hands at rest, by the height or speed of the wrists. A frame that does not show them counts like one that never
 * came: it keeps the state, up or down. More than `gap_ms` of such frames refuse the sign.
 */
export class RestGate implements FindsSegments {
  since: number | null = null;
  private readonly lowest: [number, number][] = [];
  private lastUpMs = 0;
  /** The hands rest since; null: they are up, or nothing goes on. */
  private downSince: number | null = null;
  /** Of the segment, if the hands do not come up again. */
  private endMs: number | null = null;
  private said = false;
  private refused = false;

  constructor(private readonly settings: StreamSettings, private readonly longestMs = settings.longest_ms) {}

  get openSince(): number | null {
    return this.said && !this.refused ? this.since : null;
  }

  get isSigning(): boolean {
    return this.said && this.endMs === null;
  }

  accept(seen: Seen): Mark[] {
    const { t_ms } = seen, up = this.isUp(seen);
    if (up) {
      this.downSince = this.endMs = null;
      this.lastUpMs = t_ms;
      this.since ??= t_ms;
      return this.goesOn(this.since, t_ms);
    }
    if (this.since === null) return [];
    this.endMs ??= up === null ? this.lastUpMs : t_ms;
    if (this.downSince === null && up === null) return t_ms - this.lastUpMs > this.settings.gap_ms ? this.end(this.lastUpMs, "gap") : [];
    this.downSince ??= t_ms;
    return t_ms - this.downSince < this.settings.rest_ms ? [] : this.close(this.endMs);
  }

  end(t_ms: number, code: "" | "gap" = ""): Mark[] {
    if (this.since === null) return [];
    if (code && this.openSince !== null) {
      const marks = [mark("refused", this.since, t_ms, code)];
      this.forget();
      return marks;
    }
    return this.close(this.endMs ?? t_ms);
  }

  private goesOn(since: number, t_ms: number): Mark[] {
    const length = t_ms - since;
    if (!this.said && length >= this.settings.shortest_ms) {
      this.said = true;
      return [mark("start", since, t_ms)];
    }
    if (this.said && !this.refused && length > this.longestMs) {
      this.refused = true; // until the hands rest
      return [mark("refused", since, t_ms, "long")];
    }
    return [];
  }

  private close(endMs: number): Mark[] {
    const since = this.since, answered = this.openSince !== null;
    this.forget();
    return answered && since !== null ? [this.padded(since, endMs)] : [];
  }

  private padded(startMs: number, endMs: number): Mark {
    const start = startMs - this.settings.pad_start_ms, end = endMs + this.settings.pad_end_ms;
    return end - start >= this.settings.shortest_ms ? mark("end", start, end) : mark("end", startMs, endMs);
  }

  private forget(): void {
    this.since = this.downSince = this.endMs = null;
    this.said = this.refused = false;
  }

  /** Return whether the hands are up; null: the frame does not show them. */
  private isUp(seen: Seen): boolean | null {
    const s = this.settings, wasUp = this.since !== null && this.downSince === null;
    if (s.rest_by === "motion") return Number.isNaN(seen.speed) ? null : seen.speed > (wasUp ? s.still : s.moving);
    return Number.isNaN(seen.height) ? null : seen.height < this.restHeight(seen) - (wasUp ? s.fall : s.rise);
  }

  private restHeight(seen: Seen): number {
    const second = Math.floor(seen.t_ms / 1000);
    const last = this.lowest.at(-1);
    if (!last || last[0] !== second) this.lowest.push([second, seen.height]);
    else last[1] = Math.max(last[1], seen.height);
    while (this.lowest[0][0] < second - REST_SECONDS) this.lowest.shift();
    return Math.min(Math.max(...this.lowest.map(([, height]) => height)), HANGING);
  }
}

/** The application says when a sign begins and ends. */
export class PushGate implements FindsSegments {
  pushed = false;
  openSince: number | null = null;
  private seenMs = -Infinity;

  constructor(private readonly settings: StreamSettings) {}

  accept(seen: Seen): Mark[] {
    const { t_ms } = seen, since = this.openSince;
    if (!this.pushed) return this.end(t_ms);
    if (since === null || !Number.isNaN(seen.height)) this.seenMs = t_ms;
    if (since === null) {
      this.openSince = t_ms;
      return [mark("start", t_ms, t_ms)];
    }
    const isLost = t_ms - this.seenMs > this.settings.gap_ms;
    if (!isLost && t_ms - since <= this.settings.longest_ms) return [];
    this.pushed = false;
    return isLost ? this.end(this.seenMs, "gap") : this.end(t_ms, "long");
  }

  end(t_ms: number, code: Mark["code"] = ""): Mark[] {
    const since = this.openSince;
    this.openSince = null;
    return since === null ? [] : [mark(code ? "refused" : "end", since, t_ms, code)];
  }
}

/**
 * Cuts signing without rests where the best label of overlapping windows changes; the hands' way to the next sign is
 * cut off as at a rest, and what is left must as a whole have the label of its windows.
 */
export class WindowGate implements FindsSegments {
  private readonly rest: RestGate;
  private recent: { middle: number; shares: number[] }[] = [];
  private nextMs = -Infinity;
  private run: Run | null = null;
  private other: Run | null = null;
  private refused = false;

  constructor(private readonly settings: StreamSettings, private readonly shares: Shares) {
    this.rest = new RestGate(settings, Infinity); // signs in a row may take any time
  }

  get openSince(): number | null {
    return this.run && !this.refused ? this.run.startMs : null;
  }

  async accept(seen: Seen): Promise<Mark[]> {
    for (const one of this.rest.accept(seen)) {
      if (one.kind === "end") return this.close(one.end_ms);
      if (one.kind === "refused") return this.end(one.end_ms, "gap");
    }
    const since = this.rest.since;
    if (since === null) {
      this.forget();
      return [];
    }
    if (seen.t_ms < this.nextMs || !this.rest.isSigning) return [];
    this.nextMs = seen.t_ms + this.settings.hop_ms - 1e-6;
    const length = Math.min(this.settings.window_ms, seen.t_ms - since);
    return this.asked(seen.t_ms, seen.t_ms - length / 2, await this.shares(seen.t_ms - length, seen.t_ms), since);
  }

  async end(t_ms: number, code: "" | "gap" = ""): Promise<Mark[]> {
    this.rest.end(t_ms, code);
    if (code && this.run) {
      const marks = [mark("refused", this.run.startMs, t_ms, code)];
      this.forget();
      return marks;
    }
    return this.close(t_ms);
  }

  private forget(): void {
    this.recent = [];
    this.nextMs = -Infinity;
    this.run = this.other = null;
    this.refused = false;
  }

  private async close(endMs: number): Promise<Mark[]> {
    const { run, refused } = this;
    this.forget();
    return run && !refused ? this.segment(run, endMs) : [];
  }

  /** Take one window's scores. */
  private async asked(t_ms: number, middle: number, shares: number[], since: number): Promise<Mark[]> {
    this.recent.push({ middle, shares });
    while (this.recent[0].middle < middle - this.settings.smooth_ms) this.recent.shift();
    const mean = meanOf(this.recent.map((one) => one.shares));
    middle = (this.recent[0].middle + middle) / 2;
    const best = argmax(mean);
    if (this.run === null) {
      this.run = new Run(best, since, mean[best]);
      return [mark("start", since, t_ms)];
    }
    if (best !== this.run.label) return this.another(best, middle, t_ms, mean[best]);
    this.other = null;
    const valley = this.run.follow(mean[best], middle, this.settings.valley);
    if (valley !== null && valley - this.run.startMs >= this.settings.shortest_ms) return this.nextRun(this.run, new Run(best, valley, mean[best]), t_ms);
    if (t_ms - this.run.startMs > this.settings.longest_ms && !this.refused) {
      this.refused = true;
      return [mark("refused", this.run.startMs, t_ms, "long")];
    }
    return [];
  }

  /** Another label is best: a new sign where it holds long enough, else a flicker. */
  private async another(label: number, middle: number, t_ms: number, share: number): Promise<Mark[]> {
    if (this.other?.label !== label) this.other = new Run(label, middle, share);
    if (middle - this.other.startMs < this.settings.hold_ms) return [];
    return this.nextRun(this.run!, this.other, t_ms);
  }

  private async nextRun(before: Run, run: Run, t_ms: number): Promise<Mark[]> {
    const refused = this.refused;
    this.run = run;
    this.other = null;
    this.refused = false;
    const started = mark("start", run.startMs, t_ms);
    if (refused) return [started];
    const ended = await this.segment(before, run.startMs + this.settings.pad_end_ms);
    return ended.length ? [...ended, started] : [];
  }

  /** End a run's segment; a flicker has none: too short, or as a whole of another label. */
  private async segment(run: Run, endMs: number): Promise<Mark[]> {
    const start = run.startMs - this.settings.pad_start_ms;
    if (endMs - start < this.settings.shortest_ms) return [];
    return argmax(await this.shares(start, endMs)) === run.label ? [mark("end", start, endMs)] : [];
  }
}

function meanOf(rows: number[][]): number[] {
  return rows[0].map((_, c) => rows.reduce((sum, row) => sum + row[c], 0) / rows.length);
}

/** Windows in a row with one best label. */
class Run {
  private peak: number;
  private trough: number;
  private troughMs: number;

  constructor(readonly label: number, public startMs: number, share: number) {
    this.peak = this.trough = share;
    this.troughMs = startMs;
  }

  /** Take the next window's score; return the time of a valley that has just been left. */
  follow(share: number, middle: number, valley: number): number | null {
    if (Math.min(this.peak, share) - this.trough > valley) return this.troughMs;
    if (share >= this.peak) [this.peak, this.trough, this.troughMs] = [share, share, middle];
    else if (share < this.trough) [this.trough, this.troughMs] = [share, middle];
    return null;
  }
}
