/** The worker as the page sees it: starts it under the page's own content-security policy, and asks it. */

import { errorFromPlain } from "./errors.ts";
import type { OnProgress } from "./files.ts";
import type { Reply, Request } from "./messages.ts";

interface Waiting {
  resolve: (value: any) => void;
  reject: (error: Error) => void;
  onProgress?: OnProgress | undefined;
}

export class Remote {
  private readonly worker: Worker;
  private readonly waiting = new Map<number, Waiting>();
  private count = 0;

  /**
   * A worker from a file has the policy of that file's response, which not every server can set; one from a
   * blob has the policy of the page. So the page's policy binds the worker too.
   */
  constructor(script: URL, name = "spoter") {
    const blob = URL.createObjectURL(new Blob([`import ${JSON.stringify(script.href)};`], { type: "text/javascript" }));
    this.worker = new Worker(blob, { type: "module", name });
    this.worker.onmessage = ({ data }: MessageEvent<Reply>) => this.replied(data);
    this.worker.onerror = (event) => this.failed(new Error(`the worker ${script.href} cannot run: ${event.message ?? "it was not loaded"}`));
  }

  /** A number for a new object of the worker. */
  number(): number {
    return ++this.count;
  }

  ask<T>(call: string, target: number, args: unknown[] = [], options: { transfer?: Transferable[]; onProgress?: OnProgress | undefined } = {}): Promise<T> {
    const id = this.number();
    return new Promise<T>((resolve, reject) => {
      this.waiting.set(id, { resolve, reject, onProgress: options.onProgress });
      const request: Request = { id, call, target, args };
      this.worker.postMessage(request, options.transfer ?? []);
    });
  }

  close(): void {
    this.worker.terminate();
    this.failed(new Error("it was closed"));
  }

  private replied(reply: Reply): void {
    const waiting = this.waiting.get(reply.id);
    if (!waiting) return;
    if ("progress" in reply) return waiting.onProgress?.(...reply.progress);
    this.waiting.delete(reply.id);
    if ("error" in reply) waiting.reject(errorFromPlain(reply.error));
    else waiting.resolve(reply.value);
  }

  private failed(error: Error): void {
    for (const { reject } of this.waiting.values()) reject(error);
    this.waiting.clear();
  }
}
