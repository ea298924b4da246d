/** Events of a stream: the JSON objects of docs/reference/events.md. */

export type AbstainCode = "not_a_sign" | "long" | "gap" | "tracking" | "unsure";
export type FaultCode = "time" | "landmarks" | "landmarker" | "model" | "uncalibrated" | "source" | "sink";

export interface Ready {
  type: "ready";
  t_ms: number;
  gate: string;
  backend: string;
  labels: number;
  fps: number;
}

export interface Tracking {
  type: "tracking";
  t_ms: number;
  frames_per_s: number;
  body: number;
  left_hand: number;
  right_hand: number;
  persons: number | null;
}

export interface SignStart {
  type: "sign_start";
  t_ms: number;
  start_ms: number;
}

export interface Partial {
  type: "partial";
  t_ms: number;
  start_ms: number;
  label: string;
  score: number;
  best: { label: string; score: number }[];
}

export interface Sign {
  type: "sign";
  t_ms: number;
  start_ms: number;
  end_ms: number;
  label: string;
  score: number;
  probability: number | null;
  margin: number;
  best: { label: string; score: number }[];
  latency_ms: number;
}

export interface Abstain {
  type: "abstain";
  t_ms: number;
  start_ms: number;
  end_ms: number;
  code: AbstainCode;
  reason: string;
  label: string | null;
  score: number | null;
  probability: number | null;
}

export interface Dropped {
  type: "dropped";
  t_ms: number;
  frames: number;
}

export interface Fault {
  type: "fault";
  t_ms: number;
  code: FaultCode;
  reason: string;
}

export type StreamEvent = Ready | Tracking | SignStart | Partial | Sign | Abstain | Dropped | Fault;
