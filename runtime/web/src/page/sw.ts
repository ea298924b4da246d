/** The service worker: keeps the site for use without a network, and lets no request leave for another host. */

import { sha256 } from "../files.ts";

interface ServiceWorkerScope {
  /** `files`: of the first load; `hashes`: path → sha256 of every file. */
  readonly SITE: { version: string; files: string[]; hashes: Record<string, string> };
  readonly caches: CacheStorage;
  readonly clients: { claim(): Promise<void> };
  readonly registration: { scope: string };
  skipWaiting(): Promise<void>;
  addEventListener(type: "install" | "activate" | "fetch", listener: (event: any) => void): void;
}
const scope = self as unknown as ServiceWorkerScope;
const cacheName = `spoter ${scope.registration.scope} ${scope.SITE.version}`;
const mine = `spoter ${scope.registration.scope} `;

// The files of the first load are there already; those that are large and seldom come when they are asked for.
scope.addEventListener("install", (event) => {
  const keeping = scope.caches.open(cacheName).then((cache) => Promise.all(scope.SITE.files.map((file) => fetchedInto(cache, new Request(file, { cache: "no-cache" })))));
  event.waitUntil(
    keeping.then((answers) => {
      if (!answers.every(({ isKept }) => isKept)) throw new Error("a file of the site is missing, or was changed");
      return scope.skipWaiting();
    }),
  );
});

scope.addEventListener("activate", (event) => {
  const old = scope.caches.keys().then((names) => Promise.all(names.filter((one) => one.startsWith(mine) && one !== cacheName).map((one) => scope.caches.delete(one))));
  event.waitUntil(old.then(() => scope.clients.claim()));
});

scope.addEventListener("fetch", (event) => {
  const request: Request = event.request;
  if (!request.url.startsWith(scope.registration.scope)) return event.respondWith(Response.error());
  if (request.method === "GET") event.respondWith(kept(request));
});

async function kept(request: Request): Promise<Response> {
  const cache = await scope.caches.open(cacheName);
  const found = await cache.match(request, { ignoreSearch: true });
  return found ?? (await fetchedInto(cache, request)).answer;
}

/**
 * Return the server's answer, and keep it; what is packed is kept unpacked, which saves a later visit the time. A file that is
 * not as it was exported is not kept: the server's next answer may be sound.
 */
async function fetchedInto(cache: Cache, request: Request): Promise<{ answer: Response; isKept: boolean }> {
  const answer = await fetch(request);
  if (answer.status !== 200) return { answer, isKept: false };
  const { headers } = answer;
  const isPacked = request.url.endsWith(".gz") && !headers.has("content-encoding");
  const content = await answer.clone().arrayBuffer();
  const path = decodeURIComponent(new URL(request.url).pathname.slice(new URL(scope.registration.scope).pathname.length)) || "index.html";
  const expected = request.url.endsWith(".gz") && !isPacked ? undefined : scope.SITE.hashes[path]; // the browser has unpacked it
  if (expected !== undefined && expected !== (await sha256(content))) return { answer, isKept: false };
  const body = isPacked ? new Blob([content]).stream().pipeThrough(new DecompressionStream("gzip")) : content;
  try {
    await cache.put(request, new Response(body, { headers: isPacked ? {} : headers }));
  } catch {
    return { answer, isKept: false }; // no room, or what is packed is damaged
  }
  return { answer, isKept: true };
}
