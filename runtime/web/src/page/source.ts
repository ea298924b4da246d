/** Frames of a camera or of a video file, one at a time: what comes while a frame is worked on is dropped. */

import { DataError } from "../errors.ts";

export interface SourceFrame {
  picture: ImageBitmap;
  t_ms: number;
  /** Frames that were not taken before this one. */
  dropped: number;
}

const SLOWEST = 0.0625; // of a video's speed; browsers play no slower

/** What the browser says where it gives no camera, in words. */
const REFUSED: Record<string, [string, string]> = {
  NotAllowedError: ["the camera was not allowed", "allow the camera for this page in the browser's address bar, or open a video"],
  NotFoundError: ["no camera was found", "connect one, or open a video"],
  NotReadableError: ["the camera is in use by another program", "close it, or open a video"],
};

export class FrameSource {
  private isClosed = false;
  private wake: () => void = () => undefined;

  private constructor(readonly video: HTMLVideoElement, readonly isMirrored: boolean, private readonly stream: MediaStream | null) {}

  /** Ask for the camera. */
  static async camera(): Promise<FrameSource> {
    if (!navigator.mediaDevices) throw new DataError("this page is not in a secure context, so no camera can be opened", "serve it over https, or open it as http://localhost");
    let stream: MediaStream;
    try {
      stream = await navigator.mediaDevices.getUserMedia({ audio: false, video: { width: { ideal: 640 }, height: { ideal: 480 }, facingMode: "user", frameRate: { ideal: 30 } } });
    } catch (error) {
      const [reason, fix] = REFUSED[(error as DOMException).name] ?? [`the camera cannot be opened (${(error as Error).message})`, "open a video"];
      throw new DataError(reason, fix);
    }
    return FrameSource.playing(stream);
  }

  /** Open a video file; it plays slower where this device is slower than the video. */
  static file(file: File): Promise<FrameSource> {
    return FrameSource.playing(file);
  }

  private static async playing(from: MediaStream | File): Promise<FrameSource> {
    const video = document.createElement("video");
    video.muted = true;
    video.playsInline = true;
    const isCamera = from instanceof MediaStream;
    if (isCamera) video.srcObject = from;
    else video.src = URL.createObjectURL(from);
    const made = new FrameSource(video, isCamera, isCamera ? from : null);
    video.onended = () => made.close();
    try {
      await new Promise<void>((loaded, failed) => {
        video.onloadeddata = () => loaded();
        video.onerror = () => failed(new Error());
      });
    } catch {
      made.close();
      throw new DataError(`${isCamera ? "the camera" : (from as File).name}: this browser cannot play it`, "a video in MP4 with H.264, or in WebM");
    }
    return made;
  }

  /** Yield frames until the video ends or `close`. */
  async *frames(): AsyncGenerator<SourceFrame> {
    const { video } = this;
    let newest: number | null = null;
    let presented = 0;
    let counted = 0;
    const onFrame = (now: number, info: VideoFrameCallbackMetadata) => {
      newest = this.stream ? (info.captureTime ?? now) : info.mediaTime * 1000;
      counted = info.presentedFrames;
      this.wake();
      if (!this.isClosed) video.requestVideoFrameCallback(onFrame);
    };
    video.requestVideoFrameCallback(onFrame);
    await video.play();
    while (!this.isClosed) {
      if (newest === null) {
        await new Promise<void>((wake) => (this.wake = wake));
        continue;
      }
      const t_ms: number = newest;
      const dropped = presented ? counted - presented - 1 : 0;
      newest = null;
      presented = counted;
      const begin = performance.now();
      yield { picture: await createImageBitmap(video), t_ms, dropped: Math.max(dropped, 0) };
      if (!this.stream) this.slowDown(dropped, performance.now() - begin);
    }
  }

  /** Play a file so slowly that hardly a frame is dropped. */
  private slowDown(dropped: number, ms: number): void {
    if (dropped > 0) this.video.playbackRate = Math.max(this.video.playbackRate * 0.7, SLOWEST);
    else if (ms < 15 && this.video.playbackRate < 1) this.video.playbackRate = Math.min(this.video.playbackRate * 1.1, 1);
  }

  close(): void {
    this.isClosed = true;
    this.video.pause();
    this.stream?.getTracks().forEach((track) => track.stop());
    if (this.video.src) URL.revokeObjectURL(this.video.src);
    this.wake();
  }
}
