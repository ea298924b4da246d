#include "bundle.hpp"

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "error.hpp"
#include "files.hpp"
#include "manifest.hpp"
#include "npz.hpp"
#include "sha256.hpp"

namespace spoter::detail {
namespace {

constexpr size_t manifest_bytes = 1 << 24;  // 2,000 times what 60 labels and two files take
constexpr size_t goldens_bytes = 1 << 28;   // a hundred times what 32 clips of 299 frames take
constexpr const char *manifest_name = "bundle.json", *goldens_name = "goldens.npz";

Value read_manifest(const std::string &folder, const std::string &path) {
  try {
    return parse_json(File(path, manifest_bytes).read());
  } catch (const SystemError &error) {
    if (error.number == ENOENT || error.number == ENOTDIR) {
      const char *what = is_there(folder) ? ": not a bundle: it has no bundle.json" : ": no such folder";
      bad_bundle(folder + what, "check the path, or spoter-kit export makes one");
    }
    bad_bundle(path + ": cannot be read (" + error.reason + ")",
               is_there(path) ? copy_again : "spoter-kit export makes a bundle");
  } catch (const ValueError &error) {
    bad_bundle(path + ": cannot be read as JSON: " + error.message, copy_again);
  }
}

void check_seal(const Value &content, const std::string &path) {
  const Value *schema = content.kind == Kind::table ? content.find("schema_version") : nullptr;
  if (!schema) bad_bundle(path + ": not the manifest of a spoter-kit bundle");
  Value one;
  one.kind = Kind::integer, one.number = 1;
  if (schema->kind == Kind::boolean || !equal(*schema, one))  // Python: True == 1
    bad_bundle(path + ": schema version " + shown(*schema) + ", this spoter_runtime reads 1",
               "pip install --upgrade spoter-kit");
  const Value *seal = content.find("manifest_sha256");
  if (!seal || seal->kind != Kind::text || seal->text != sha256_of(canonical(content, "manifest_sha256")))
    bad_bundle(path + ": its own hash does not fit its content, so it was changed or damaged",
               "copy the whole bundle again");
}

void check_inside(const std::string &folder, const std::string &listed) {
  const std::string path = joined(folder, listed), slashed = "/" + listed + "/";
  const bool outside =
      listed.compare(0, 1, "/") == 0 || slashed.find("/../") != slashed.npos || listed.find('\\') != listed.npos;
  if (outside || !leads_inside(folder, path))
    bad_bundle(joined(folder, manifest_name) + ": path " + shown(listed) + " points outside the bundle; refused");
  if (!is_file(path))
    bad_bundle(
        folder + ": " + listed + " is listed in bundle.json but is " + (is_there(path) ? "not a file" : "not there"),
        copy_again);
}

// Calls `use` with a listed file and its hash; a system's error becomes ours.
template <class Use>
auto with_listed(const Bundle &bundle, const std::string &path, Use use) {
  const auto hashes = bundle.hashes();
  const auto found = hashes.find(path);
  if (found == hashes.end()) bad_bundle(bundle.folder + ": " + path + " is not listed in bundle.json");
  const std::string file = joined(bundle.folder, path);
  try {
    return use(file, found->second);
  } catch (const SystemError &error) {
    bad_bundle(file + ": listed in bundle.json but cannot be read (" + error.reason + ")", copy_again);
  }
}

std::vector<Golden> goldens_from(const std::vector<Array> &arrays, const Contract &contract) {
  const Array &poses = arrays[0], &lengths = arrays[1], &logits = arrays[2];
  const size_t classes = contract.labels.size();
  if (poses.type != "<f4" || lengths.type != "<i4" || logits.type != "<f4")
    throw ValueError{"poses, lengths and logits are " + poses.type + ", " + lengths.type + ", " + logits.type +
                     ", expected float32, int32 and float32"};
  const size_t clips = poses.shape.size() == 3 ? poses.shape[0] : 0, frames = clips ? poses.shape[1] : 0;
  const std::vector<size_t> expected[] = {{clips, frames, SPOTER_FEATURES}, {clips}, {clips, classes}};
  if (clips < 1 || poses.shape != expected[0] || lengths.shape != expected[1] || logits.shape != expected[2])
    throw ValueError{"poses, lengths and logits do not fit; expected one row a clip, at least one, and " +
                     std::to_string(classes) + " classes"};
  const size_t most = std::min(frames, static_cast<size_t>(contract.max_frames));
  std::vector<Golden> goldens(clips);
  for (size_t i = 0; i < clips; ++i) {
    int32_t length = 0;
    std::memcpy(&length, lengths.content.data() + 4 * i, 4);
    if (length < 1 || static_cast<size_t>(length) > most)
      throw ValueError{"a clip's frames are not within 1.." + std::to_string(most)};
    goldens[i].poses.resize(static_cast<size_t>(length) * SPOTER_FEATURES);
    goldens[i].logits.resize(classes);
    std::memcpy(goldens[i].poses.data(), poses.content.data() + 4 * i * frames * SPOTER_FEATURES,
                4 * goldens[i].poses.size());
    std::memcpy(goldens[i].logits.data(), logits.content.data() + 4 * i * classes, 4 * classes);
  }
  return goldens;
}

}  // namespace

void check_digest(const std::string &file, const std::string &digest, const std::string &expected,
                  const std::string &fix) {
  if (digest != expected)
    bad_bundle(file + ": sha256 is " + digest.substr(0, 12) + "…, expected " + expected.substr(0, 12) +
                   "…, so the file was changed or damaged",
               fix);
}

const Artefact *Bundle::find(const std::string &kind, const std::string &precision) const {
  const auto found = std::find_if(artefacts.rbegin(), artefacts.rend(), [&](const Artefact &artefact) {
    return artefact.kind == kind && artefact.precision == precision;
  });
  return found == artefacts.rend() ? nullptr : &*found;
}

const Artefact &Bundle::onnx(const std::string &precision) const {
  if (const Artefact *found = find("onnx", precision)) return *found;
  std::string has;
  for (const Artefact &artefact : artefacts)
    if (artefact.kind == "onnx") has += (has.empty() ? "" : ", ") + artefact.precision;
  bad_bundle(folder + ": has no " + precision + " ONNX file, only " + (has.empty() ? "none at all" : has),
             "export the RUN again with --precision, or take one of those");
}

std::map<std::string, std::string> Bundle::hashes() const {
  std::map<std::string, std::string> found(files.begin(), files.end());
  for (const Artefact &artefact : artefacts) found[artefact.path] = artefact.sha256;
  return found;
}

uint64_t Bundle::most_bytes(const std::string &path) const {
  for (const Artefact &artefact : artefacts)
    if (artefact.path == path) return static_cast<uint64_t>(std::min(artefact.size_bytes, double(model_bytes)));
  return path == goldens_name ? goldens_bytes : other_bytes;
}

std::string Bundle::read(const std::string &path) const {
  return with_listed(*this, path, [&](const std::string &file, const std::string &expected) {
    std::string content = File(file, most_bytes(path)).read();
    check_digest(file, sha256_of(content), expected, copy_again);
    return content;
  });
}

size_t Bundle::check_files() const {
  const auto all = hashes();
  for (const auto &listed : all)
    with_listed(*this, listed.first, [&](const std::string &file, const std::string &expected) {
      check_digest(file, File(file, most_bytes(listed.first)).sha256(), expected, copy_again);
    });
  return all.size();
}

std::vector<Golden> Bundle::goldens() const {
  const std::string file = joined(folder, goldens_name);
  try {
    return goldens_from(read_arrays(read(goldens_name), {"poses", "lengths", "logits"}, goldens_bytes), contract);
  } catch (const ValueError &error) {
    bad_bundle(file + ": cannot be read: " + error.message);
  }
}

Bundle read_bundle(const std::string &given) {
  const std::string folder = tidy(given), path = joined(folder, manifest_name);
  const Value content = read_manifest(folder, path);
  check_seal(content, path);
  Manifest manifest;
  try {
    manifest = manifest_from_json(content);
  } catch (const ValueError &error) {
    bad_bundle(path + ": " + error.message, "export the bundle again");
  }
  Bundle bundle = std::move(manifest.bundle);
  bundle.folder = folder;
  bundle.contract = contract_from_json(*manifest.contract, path);
  const size_t rows = bundle.abstention ? bundle.abstention->typical_logits.size() : 0;
  if (rows && rows != bundle.contract.labels.size())
    bad_bundle(path + ": abstention.typical_logits: " + std::to_string(rows) + " rows, expected one for each of " +
                   std::to_string(bundle.contract.labels.size()) + " labels",
               "export the bundle again");
  if (bundle.hashes().size() < bundle.artefacts.size() + bundle.files.size())
    bad_bundle(path + ": a file is listed twice");
  for (const Artefact &artefact : bundle.artefacts) check_inside(folder, artefact.path);
  for (const auto &listed : bundle.files) check_inside(folder, listed.first);
  return bundle;
}

}  // namespace spoter::detail
