/** The service worker: keeps the site for use without a network, and lets no request leave for another host. */

interface ServiceWorkerScope {
  readonly SITE: { version: string; files: string[] };
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
  const kept = scope.caches.open(cacheName).then((cache) => cache.addAll(scope.SITE.files.map((file) => new Request(file, { cache: "no-cache" }))));
  event.waitUntil(kept.then(() => scope.skipWaiting()));
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
  if (found) return found;
  const answer = await fetch(request);
  if (answer.status === 200) await cache.put(request, answer.clone());
  return answer;
}
