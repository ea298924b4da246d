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
  const keeping = scope.caches.open(cacheName).then((cache) => Promise.all(scope.SITE.files.map((file) => fetchedInto(cache, new Request(file, { cache: "no-cache" })))));
  event.waitUntil(
    keeping.then((answers) => {
      if (!answers.every((answer) => answer.ok)) throw new Error("a file of the site is missing");
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
  if (found) return found;
  return fetchedInto(cache, request);
}

/** Return the server's answer, and keep it; what is packed is kept unpacked, which saves a later visit the time. */
async function fetchedInto(cache: Cache, request: Request): Promise<Response> {
  const answer = await fetch(request);
  if (answer.status !== 200) return answer;
  const { body, headers } = answer.clone();
  const isPacked = request.url.endsWith(".gz") && !headers.has("content-encoding");
  await cache.put(request, new Response(isPacked ? body!.pipeThrough(new DecompressionStream("gzip")) : body, { headers: isPacked ? {} : headers }));
  return answer;
}
