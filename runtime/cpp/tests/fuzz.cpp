// Random bytes for every reader of the library, and for the C interface: with clang's libFuzzer, or with its own main,
// which changes bytes of the files given: fuzz SECONDS FILE ...
#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <string>
#include <vector>

#include "../src/clip.hpp"
#include "../src/contract.hpp"
#include "../src/error.hpp"
#include "../src/json.hpp"
#include "../src/live/settings.hpp"
#include "../src/manifest.hpp"
#include "../src/npz.hpp"
#include "../src/onnx_file.hpp"
#include "../src/sha256.hpp"

using namespace spoter::detail;

namespace {

// A manifest with a right seal, so that the readers of its fields are reached.
void read_manifest(std::string_view text) {
  const Value value = parse_json(text);
  const std::string written = canonical(value);
  if (canonical(parse_json(written)) != written) std::abort();  // it reads what it writes
  if (!equal(value, parse_json(written))) std::abort();
  contract_from_json(value, "fuzz");
}

void read_fields(std::string_view text) {
  const Value value = parse_json(text);
  const Manifest manifest = manifest_from_json(value);
  contract_from_json(*manifest.contract, "fuzz");
}

void read_clip(std::string_view bytes) {
  if (bytes.size() < sizeof(float)) return;
  std::vector<float> values(bytes.size() / sizeof(float));
  std::memcpy(values.data(), bytes.data(), values.size() * sizeof(float));
  const size_t frames = values.size() / SPOTER_FEATURES;
  const Abstention rule = {0.5, 0.5, 0.1, 0.5, 0.05, 0.5, {"a"}, {{9, -1, 0}, {0, 9, 1}, {1, 0, 9}}};
  const std::vector<float> clip = checked_clip({values.data(), frames, nullptr}, 9, bytes.size() % 2, "fuzz");
  const float logits[] = {values[0], 1, 2};
  decide(logits, {{"a", "", "", ""}, {"b", "", "", ""}, {"c", "", "", ""}}, clip, rule);
}

// A folder whose bundle.json holds the bytes, with a right seal where it is JSON, through the C interface.
void open_bundle(std::string_view text) {
  static const std::string folder = [] {
    char name[] = "/tmp/spoter-fuzz-XXXXXX";
    return std::string(mkdtemp(name));
  }();
  std::string content(text);
  try {
    Value value = parse_json(text);
    Value seal;
    seal.kind = Kind::text, seal.text = sha256_of(canonical(value, "manifest_sha256"));
    if (value.kind == Kind::table && !value.find("manifest_sha256")) {
      value.members.emplace_back("manifest_sha256", seal);
      content = canonical(value);
    }
  } catch (const ValueError &) {
  }
  std::ofstream(folder + "/bundle.json", std::ios::binary).write(content.data(), std::streamsize(content.size()));
  spoter_recognizer *recognizer = nullptr;
  spoter_replay replay;
  if (spoter_recognizer_create(folder.c_str(), nullptr, &recognizer) == SPOTER_OK || recognizer) std::abort();
  if (spoter_verify(folder.c_str(), nullptr, &replay) == SPOTER_OK || !*spoter_error_message()) std::abort();
}

// The manifest of a landmarker whose files are not there, through the C interface.
void open_landmarker(std::string_view text) {
  static const std::string folder = [] {
    char name[] = "/tmp/spoter-fuzz-XXXXXX";
    return std::string(mkdtemp(name));
  }();
  std::ofstream(folder + "/landmarker.json", std::ios::binary).write(text.data(), std::streamsize(text.size()));
  spoter_landmarker *landmarker = nullptr;
  spoter_options options = SPOTER_OPTIONS_INIT;
  options.onnxruntime = "/nowhere/libonnxruntime.so";
  if (spoter_landmarker_create(folder.c_str(), &options, &landmarker) == SPOTER_OK || landmarker) std::abort();
}

// Settings, a zero, and frames of 16 bytes each, through the C interface: with the bundle that SPOTER_FUZZ_BUNDLE
// names.
void run_stream(std::string_view bytes) {
  static spoter_recognizer *const recognizer = [] {
    spoter_recognizer *opened = nullptr;
    const char *path = std::getenv("SPOTER_FUZZ_BUNDLE");
    spoter_options options = SPOTER_OPTIONS_INIT;
    options.threads = 1;
    if (path && spoter_recognizer_create(path, &options, &opened) != SPOTER_OK) std::abort();
    return opened;
  }();
  const std::string settings(bytes.substr(0, bytes.find('\0')));
  bytes.remove_prefix(std::min(bytes.size(), settings.size() + 1));
  fitting(settings_from_json(settings), 99);
  static const char *const gates[] = {"rest", "window", "push"};
  spoter_stream *stream = nullptr;
  if (!recognizer || spoter_stream_create(recognizer, gates[bytes.size() % 3], settings.c_str(), &stream)) return;
  double t_ms = 0;
  for (; bytes.size() >= 16; bytes.remove_prefix(16)) {
    const auto *byte = reinterpret_cast<const unsigned char *>(bytes.data());
    if (byte[0] % 8) t_ms += byte[1];
    else std::memcpy(&t_ms, byte + 8, 8);
    float landmarks[SPOTER_FEATURES];
    for (size_t i = 0; i < SPOTER_FEATURES; ++i) landmarks[i] = float(i % 12) / 12;
    landmarks[25] = landmarks[67] = float(byte[2]) / 64;  // the height of both hands
    std::memcpy(landmarks + byte[3] % SPOTER_FEATURES, byte + 4, 4);
    spoter_stream_push(stream, byte[0] & 8);
    if (spoter_stream_accept_landmarks(stream, landmarks, t_ms, byte[0] & 16, byte[0] % 3 - 1)) std::abort();
  }
  if (spoter_stream_flush(stream)) std::abort();
  for (spoter_event event = {}; !spoter_stream_next_event(stream, &event) && event.type;) parse_json(event.json);
  spoter_stream_destroy(stream);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  if (size == 0) return 0;
  const std::string_view bytes(reinterpret_cast<const char *>(data) + 1, size - 1);
  try {
    switch (data[0] % 9) {
      case 0:
        read_manifest(bytes);
        break;
      case 1:
        read_fields(bytes);
        break;
      case 2:
        read_arrays(bytes, {"poses", "lengths", "logits"}, 1 << 20);
        break;
      case 3:
        inflate(bytes, 1 << 16);
        break;
      case 4:
        check_onnx(bytes, "fuzz");
        break;
      case 5:
        read_clip(bytes);
        break;
      case 6:
        run_stream(bytes);
        break;
      case 7:
        open_landmarker(bytes);
        break;
      default:
        open_bundle(bytes);
    }
  } catch (const ValueError &) {
  } catch (const Error &) {
  }
  return 0;
}

#ifdef SPOTER_OWN_MAIN
#include <chrono>
#include <random>

int main(int argc, char **argv) {
  std::vector<std::string> seeds;
  for (int i = 2; i < argc; ++i) {
    std::ifstream file(argv[i], std::ios::binary);
    seeds.emplace_back(std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>());
  }
  if (seeds.empty()) return 2;
  std::mt19937 random(0);
  const auto below = [&](size_t most) { return random() % most; };
  const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(std::atoi(argv[1]));
  size_t runs = 0;
  for (; std::chrono::steady_clock::now() < end; ++runs) {
    std::string input = seeds[below(seeds.size())];
    input.insert(input.begin(), static_cast<char>(below(9)));
    for (size_t changes = below(6); changes-- && input.size() > 1;) {
      const size_t place = 1 + below(input.size() - 1);
      switch (below(4)) {
        case 0:
          input[place] = static_cast<char>(random());
          break;
        case 1:
          input[place] = static_cast<char>(input[place] ^ 1 << below(8));
          break;
        case 2:
          input.erase(place, 1 + below(16));
          break;
        default:
          input.insert(place, input.substr(1 + below(input.size() - 1), 1 + below(32)));
      }
    }
    LLVMFuzzerTestOneInput(reinterpret_cast<const uint8_t *>(input.data()), input.size());
  }
  std::printf("%zu inputs\n", runs);
}
#endif
