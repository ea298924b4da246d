#include "files.hpp"

#include "../bundle.hpp"
#include "../error.hpp"
#include "../files.hpp"
#include "../json.hpp"
#include "../manifest.hpp"
#include "../sha256.hpp"

namespace spoter::detail {
namespace {

constexpr size_t manifest_bytes = 1 << 20;
constexpr const char *manifest_name = "landmarker.json", *in_bundle = "landmarker";
constexpr const char *fetch_again = "spoter-kit landmarker fetch --force";

// The manifest of the landmarker in a bundle, which names the hashes of the landmarker's other files.
std::string manifest_in(const Bundle &bundle) {
  const std::string listed = joined(in_bundle, manifest_name);
  if (!bundle.hashes().count(listed))
    bad_bundle(bundle.folder + ": has no landmarker", "spoter-kit export --camera puts one in");
  return bundle.read(listed);
}

std::string manifest_of(const std::string &folder, const std::string &path) {
  try {
    return File(path, manifest_bytes).read();
  } catch (const SystemError &error) {
    if (!is_there(path)) bad_bundle(folder + ": no landmarker there", "spoter-kit landmarker fetch");
    bad_bundle(path + ": cannot be read: " + error.reason, fetch_again);
  }
}

Value parsed(const std::string &content, const std::string &path, const std::string &fix) {
  try {
    return parse_json(content);
  } catch (const ValueError &error) {
    bad_bundle(path + ": cannot be read: " + error.message, fix);
  }
}

void read_fields(const Value &value, LandmarkerFiles &files) {
  for (const char *name : {"sha256", "files", "source"})
    if (!value.find(name)) throw ValueError{std::string(name) + " is missing"};
  files.sha256 = as_text(*value.find("sha256"), "sha256");
  as_text(*value.find("source"), "source");
  check_sha256(files.sha256, "files.sha256");
  for (const auto &[name, digest] : as_table(*value.find("files"), "files").members) {
    files.hashes[name] = as_text(digest, "files." + name);
    check_file_name(name, "files");
    check_sha256(digest.text, "files." + name);
  }
}

}  // namespace

std::string LandmarkerFiles::read(const std::string &name) const {
  const std::string path = joined(folder, name);
  const auto listed = hashes.find(name);
  if (listed == hashes.end()) bad_bundle(joined(folder, manifest_name) + ": does not list " + name, fix);
  try {
    std::string content = File(path, other_bytes).read();
    check_digest(path, sha256_of(content), listed->second, fix);
    return content;
  } catch (const SystemError &error) {
    bad_bundle(path + ": cannot be read: " + error.reason, fix);
  }
}

LandmarkerFiles read_landmarker(const std::string &given) {
  const std::string path = tidy(given);
  const bool bundled = is_there(joined(path, "bundle.json"));
  LandmarkerFiles files;
  files.folder = bundled ? joined(path, in_bundle) : path;
  files.fix = bundled ? copy_again : fetch_again;
  const std::string manifest = joined(files.folder, manifest_name);
  const std::string content = bundled ? manifest_in(read_bundle(path)) : manifest_of(path, manifest);
  const Value value = parsed(content, manifest, files.fix);
  try {
    const Value *version = as_table(value, "").find("schema_version");
    if (!version || version->kind != Kind::integer || version->text != "1")
      bad_bundle(manifest + ": schema " + shown(version ? *version : Value()) + ", this version reads 1", fetch_again);
    read_fields(value, files);
  } catch (const ValueError &error) {
    bad_bundle(manifest + ": is damaged: " + error.message, fetch_again);
  }
  std::string missing;  // in the order of their names
  for (const char *name : {"hand.onnx", "pose.onnx", "pose_detection.onnx", "recrop.onnx"})
    if (!files.hashes.count(name)) missing += (missing.empty() ? "" : ", ") + std::string(name);
  if (!missing.empty()) bad_bundle(manifest + ": does not list " + missing);
  return files;
}

}  // namespace spoter::detail
