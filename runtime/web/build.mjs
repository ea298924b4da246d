// Builds the npm package's scripts into dist/, and those of the page into the toolkit, which the wheel carries.
// By esbuild: three scripts without a framework need no more of Vite than the bundler that Vite itself began with.
import { createHash } from "node:crypto";
import { readFile, readdir, rm } from "node:fs/promises";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { build } from "esbuild";

const here = dirname(fileURLToPath(import.meta.url));
const page = join(here, "../../toolkit/spoter_toolkit/web/page");

/** Names the sources that a script was built from: a test compares it with the sources beside it. */
async function sourcesHash() {
  const names = (await readdir(join(here, "src"), { recursive: true })).filter((name) => name.endsWith(".ts")).sort();
  const hash = createHash("sha256");
  for (const name of [...names.map((name) => join("src", name)), "package.json", "build.mjs"]) hash.update(await readFile(join(here, name)));
  return hash.digest("hex");
}

const common = {
  bundle: true,
  format: "esm",
  target: ["es2022"],
  charset: "utf8",
  legalComments: "none",
  banner: { js: `/* spoter-kit, Apache-2.0. Built from sources ${await sourcesHash()} */` },
};
const entry = (name) => join(here, "src", `${name}.ts`);

await rm(join(here, "dist"), { recursive: true, force: true });
await build({ ...common, entryPoints: [entry("index"), entry("worker")], outdir: join(here, "dist"), sourcemap: true });
await build({ ...common, minify: true, entryPoints: { app: entry("page/app"), worker: entry("worker"), sw: entry("page/sw"), spoter: entry("index") }, outdir: process.argv[2] ?? page });
