#include "goldens.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <limits>
#include <set>

#include "../error.hpp"
#include "../files.hpp"
#include "../npz.hpp"
#include "landmarker.hpp"

namespace spoter::detail {
namespace {

constexpr double tolerance = 5e-3;      // as in Python
constexpr size_t most_bytes = 1 << 24;  // thirty times what they take
constexpr const char *goldens = "goldens.npz";
constexpr int64_t height = 240, width = 320;

// The upper half of a product.
uint64_t high_of(uint64_t a, uint64_t b) {
  const uint64_t a1 = a >> 32, a0 = a & 0xFFFFFFFF, b1 = b >> 32, b0 = b & 0xFFFFFFFF;
  const uint64_t middle = a1 * b0 + (a0 * b0 >> 32), other = a0 * b1 + (middle & 0xFFFFFFFF);
  return a1 * b1 + (middle >> 32) + (other >> 32);
}

// numpy's default_rng(17): PCG64 (O'Neill 2014), and whole numbers below a limit by Lemire's method (2019).
class Generator {
 public:
  uint32_t below(uint32_t limit) {
    while (true) {
      const uint64_t product = uint64_t(next()) * limit;
      if (uint32_t(product) >= (0U - limit) % limit) return uint32_t(product >> 32);
    }
  }

 private:
  uint32_t next() {  // the lower half of 64 bits, then the upper one
    if (has_half_) return has_half_ = false, half_;
    // state = state * factor + step, of 128 bits
    constexpr uint64_t factor_high = 0x2360ed051fc65da4, factor_low = 0x4385df649fccf645;
    constexpr uint64_t step_high = 0x3b532b59957ad40a, step_low = 0x3b5267c90781bf85;
    high_ = high_of(low_, factor_low) + high_ * factor_low + low_ * factor_high + step_high;
    low_ = low_ * factor_low + step_low;
    high_ += low_ < step_low;  // the carry
    const uint64_t folded = high_ ^ low_;
    const auto turn = unsigned(high_ >> 58);
    const uint64_t value = folded >> turn | folded << (-turn & 63);
    has_half_ = true, half_ = uint32_t(value >> 32);
    return uint32_t(value);
  }

  uint64_t high_ = 0x90032ae9301c65d5, low_ = 0x8fc8e3434980b0a7;
  bool has_half_ = false;
  uint32_t half_ = 0;
};

std::vector<Output> answered(const LandmarkerGraphs &graphs, size_t graph, const Input &frame) {
  static const float unknown = std::numeric_limits<float>::quiet_NaN();
  static const std::vector<float> body = {160, 130, 240, 12}, one_hand = {150, 150, 90, 30}, nothing(42, unknown),
                                  points = {0.4F, 0.7F, 0.45F, 0.6F, 0.5F, 0.62F};
  if (graph == 0) return graphs.run(graph, {frame});
  if (graph == 1) return graphs.run(graph, {frame, {"region", {1, 4}, body.data()}});
  if (graph == 3) return graphs.run(graph, {frame, {"regions", {1, 4}, one_hand.data()}});
  return graphs.run(graph, {frame,
                            {"points", {1, 3, 2}, points.data()},
                            {"landmarks", {1, 21, 2}, nothing.data()},
                            {"tracked", {1, 4}, nothing.data()}});
}

double largest_difference(const Output &found, const Array &expected) {
  if (expected.type != "<f4" || expected.content.size() != found.values.size() * sizeof(float))
    throw ValueError{"holds the answers of other graphs"};
  double largest = 0;
  for (size_t i = 0; i < found.values.size(); ++i) {
    float stored = 0;
    std::memcpy(&stored, expected.content.data() + i * sizeof stored, sizeof stored);
    const double difference =
        std::fabs(double(found.values[i]) - double(stored)) / std::max(1.0, double(std::fabs(stored)));
    largest = difference <= largest ? largest : difference;  // NaN stays
  }
  return largest;
}

}  // namespace

std::vector<uint8_t> golden_picture() {
  Generator random;
  std::array<uint32_t, 6 * 8 * 3> coarse;
  for (uint32_t &value : coarse) value = random.below(200);
  std::vector<uint8_t> picture;
  for (size_t y = 0; y < size_t(height); ++y)
    for (size_t x = 0; x < size_t(width); ++x)
      for (size_t channel = 0; channel < 3; ++channel)
        picture.push_back(uint8_t(coarse[(y / 40 * 8 + x / 40) * 3 + channel] + random.below(56)));
  return picture;
}

spoter_landmarker_replay replay_landmarker(const std::string &path, const char *engine, int threads) {
  const LandmarkerFiles files = read_landmarker(path);
  std::set<std::string> read_below = {goldens};
  for (const char *graph : landmarker_graphs) read_below.insert(std::string(graph) + ".onnx");
  for (const auto &listed : files.hashes)
    if (!read_below.count(listed.first)) files.read(listed.first);
  const LandmarkerGraphs graphs(files, engine, threads ? threads : 1);
  const std::vector<uint8_t> picture = golden_picture();
  const Input frame = {"frame", {height, width, 3}, picture.data(), Input::uint8};
  double worst[4] = {};
  try {
    const std::string stored = files.read(goldens);
    for (size_t graph = 0; graph < 4; ++graph) {
      const std::vector<Output> found = answered(graphs, graph, frame);
      for (size_t n = 0; n < found.size(); ++n) {
        const std::string name = landmarker_graphs[graph] + ("/" + std::to_string(n));
        const double difference = largest_difference(found[n], read_arrays(stored, {name}, most_bytes)[0]);
        worst[graph] = difference <= worst[graph] ? worst[graph] : difference;
      }
    }
  } catch (const ValueError &error) {
    bad_bundle(joined(files.folder, goldens) + ": cannot be read: " + error.message, files.fix);
  }
  const bool passed = std::all_of(worst, worst + 4, [](double one) { return one <= tolerance; });
  return {passed, worst[0], worst[1], worst[2], worst[3], tolerance};
}

}  // namespace spoter::detail
