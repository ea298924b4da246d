#include "landmarker.hpp"

#include <algorithm>
#include <cmath>
#include <limits>

#include "../error.hpp"
#include "../files.hpp"
#include "../onnx_file.hpp"
#include "../python.hpp"
#include "../recognizer.hpp"

namespace spoter::detail {
namespace {

constexpr float unknown = std::numeric_limits<float>::quiet_NaN();
constexpr float present = 0.5F;            // a body or a hand is there
constexpr float another = 0.15F;           // another person is there, as in Python
constexpr float visible = 0.1F;            // a wrist is worth a look for its hand
constexpr float visibility_weight = 0.1F;  // of a new frame in the mean over time
constexpr double frame_ms = 1000.0 / 30;   // between frames without a time
constexpr double least_ms = 1e-3;          // between frames, as in Python
constexpr float moved = 0.15F;             // in sizes of the hand's region: then the hand is looked for anew
enum Graph : size_t { pose_detection, pose, recrop, hand };

struct Answer {
  std::vector<const char *> names;
  std::vector<size_t> sizes;
};

// By graph; the exporter gives these names.
const Answer answers[] = {
    {{"region", "score", "other_score"}, {4, 1, 1}},
    {{"landmarks", "region_points", "visibility", "presence"}, {66, 4, 33, 1}},
    {{"regions"}, {4}},
    {{"landmarks", "presence", "next_regions"}, {42, 1, 4}},
};

// MediaPipe Pose indices whose mean is each body point; the neck is between the shoulders.
constexpr size_t mediapipe_pose[][2] = {{0, 0},   {11, 12}, {5, 5},   {2, 2},   {8, 8},   {7, 7},
                                        {12, 12}, {11, 11}, {14, 14}, {13, 13}, {16, 16}, {15, 15}};

Input floats(const char *name, std::vector<int64_t> shape, const std::vector<float> &values) {
  return {name, std::move(shape), values.data()};
}

std::vector<double> scaled(const std::vector<float> &points, double width, double height) {
  std::vector<double> made(points.size());
  for (size_t i = 0; i < points.size(); ++i) made[i] = double(points[i]) * (i % 2 ? height : width);
  return made;
}

}  // namespace

LandmarkerGraphs::LandmarkerGraphs(const LandmarkerFiles &files, const char *engine, int threads) : engine_(engine) {
  check_threads(threads);
  for (size_t i = 0; i < 4; ++i) {
    const std::string name = std::string(landmarker_graphs[i]) + ".onnx", content = files.read(name);
    const std::string where = joined(files.folder, name);
    check_onnx(content, where);
    sessions_[i] = std::make_unique<Session>(engine_, content, SessionOptions{threads, true, false}, where);
  }
}

std::vector<Output> LandmarkerGraphs::run(size_t graph, const std::vector<Input> &inputs) const {
  const std::string where = landmarker_graphs[graph] + (".onnx: ONNX Runtime " + engine_.version()) + " failed: ";
  std::vector<Output> found = sessions_[graph]->run(inputs, answers[graph].names, where);
  for (size_t i = 0; i < found.size(); ++i)
    if (found[i].values.size() != answers[graph].sizes[i])
      fail(SPOTER_BACKEND_ERROR, where + answers[graph].names[i] + " has " + std::to_string(found[i].values.size()) +
                                     " values, expected " + std::to_string(answers[graph].sizes[i]));
  return found;
}

Landmarker::Landmarker(const std::string &path, const char *engine, int threads)
    : files_(read_landmarker(path)), graphs_(files_, engine, threads ? threads : 1) {
  reset();
}

void Landmarker::reset() {
  t_ms_.reset();
  height_ = width_ = 0;
  lose_body();
}

void Landmarker::lose_body() {
  region_.clear();
  visibility_.clear();
  body_.reset();
  body_region_.reset();
  hands_ = {Hand{12, {15, 17, 19}}, Hand{33, {16, 18, 20}}};
  for (Hand &one : hands_) {
    one.lose();
    one.wrist[0] = one.wrist[1] = double(unknown);
  }
}

void Landmarker::Hand::lose() {
  landmarks.assign(42, unknown);
  region.assign(4, unknown);
}

void Landmarker::accept(const uint8_t *rgb, size_t height, size_t width, size_t stride, double t_ms, float *landmarks) {
  if (!rgb || !landmarks) fail(SPOTER_INPUT_ERROR, std::string(rgb ? "landmarks" : "rgb") + " is NULL");
  constexpr size_t most = 1 << 20;
  if (height < 1 || width < 1 || height > most || width > most)
    fail(SPOTER_INPUT_ERROR,
         "a frame is (height, width, 3) RGB, got (" + std::to_string(height) + ", " + std::to_string(width) + ", 3)");
  const size_t row = 3 * width;
  if (stride && stride < row)
    fail(SPOTER_INPUT_ERROR, "stride " + std::to_string(stride) + ", expected at least 3 x " + std::to_string(width));
  const double elapsed_s = elapsed_s_until(t_ms);
  if (height_ && (height_ != height || width_ != width)) lose_body();  // regions are in pixels
  height_ = height, width_ = width;
  if (stride > row) {
    pixels_.resize(row * height);
    for (size_t y = 0; y < height; ++y) std::copy_n(rgb + y * stride, row, &pixels_[y * row]);
    rgb = pixels_.data();
  }
  const Frame frame = {
      {"frame", {int64_t(height), int64_t(width), 3}, rgb, Input::uint8}, double(width), double(height)};
  std::fill_n(landmarks, SPOTER_FEATURES, unknown);
  try {
    find(frame, elapsed_s, landmarks);
  } catch (...) {
    lose_body();  // half of it is of this frame
    throw;
  }
}

void Landmarker::find(const Frame &frame, double elapsed_s, float *landmarks) {
  const std::vector<float> found = find_body(frame, elapsed_s);
  if (found.empty()) return lose_body();
  for (size_t i = 0; i < std::size(mediapipe_pose); ++i)
    for (size_t axis = 0; axis < 2; ++axis) {
      const auto [a, b] = mediapipe_pose[i];
      landmarks[2 * i + axis] = (found[2 * a + axis] + found[2 * b + axis]) / 2;
    }
  for (Hand &one : hands_) {
    find_hand(frame, one, found);
    std::copy(one.landmarks.begin(), one.landmarks.end(), landmarks + 2 * one.first);
  }
}

double Landmarker::elapsed_s_until(double t_ms) {
  if (std::isinf(t_ms))
    fail(SPOTER_INPUT_ERROR,
         std::string("t_ms ") + (t_ms > 0 ? "inf" : "-inf") + ": expected milliseconds, a finite number");
  const bool timed = !std::isnan(t_ms) && t_ms_;
  const double elapsed_ms = timed ? t_ms - *t_ms_ : frame_ms;
  if (!(elapsed_ms >= least_ms))
    fail(SPOTER_INPUT_ERROR,
         "a frame of " + general(t_ms) + " ms after one of " + general(*t_ms_) + " ms: times grow from frame to frame",
         "spoter_landmarker_reset before another video");
  if (std::isnan(t_ms)) t_ms_.reset();
  else t_ms_ = t_ms;
  return elapsed_ms / 1000;
}

// MediaPipe's 33 points of the body, smoothed over time; none where nobody is seen.
std::vector<float> Landmarker::find_body(const Frame &frame, double elapsed_s) {
  if (region_.empty()) {
    std::vector<Output> found = graphs_.run(pose_detection, {frame.input});
    const float score = found[1].values[0], other_score = found[2].values[0];
    persons_ = score < present ? 0 : 1 + int(other_score >= another);
    if (score < present) return {};
    region_ = std::move(found[0].values);
  }
  std::vector<Output> found = graphs_.run(pose, {frame.input, floats("region", {1, 4}, region_)});
  const std::vector<float> &landmarks = found[0].values, &ends = found[1].values;
  if (found[3].values[0] <= present) return {};
  if (visibility_.empty()) visibility_ = found[2].values;
  else
    for (size_t i = 0; i < visibility_.size(); ++i)
      visibility_[i] += visibility_weight * (found[2].values[i] - visibility_[i]);
  const double size = 2 * std::hypot(double(ends[2] - ends[0]) * frame.width, double(ends[3] - ends[1]) * frame.height);
  const std::vector<double> &smooth = body_(scaled(landmarks, frame.width, frame.height), elapsed_s, size);
  const std::vector<double> &at = body_region_(scaled(ends, frame.width, frame.height), elapsed_s, size);
  region_ = {float(at[0]), float(at[1]), float(-2.5 * (at[3] - at[1])), float(2.5 * (at[2] - at[0]))};
  std::vector<float> made(smooth.size());
  for (size_t i = 0; i < made.size(); ++i) made[i] = float(smooth[i] / (i % 2 ? frame.height : frame.width));
  return made;
}

// Finds a hand's landmarks in this frame, from the body's points of it.
void Landmarker::find_hand(const Frame &frame, Hand &one, const std::vector<float> &found) {
  std::vector<float> points;
  bool outside = true;
  for (const size_t n : one.pose) {
    const float x = found[2 * n], y = found[2 * n + 1];
    points.insert(points.end(), {x, y});
    outside = outside && (std::fabs(x - 0.5F) > 0.5F || std::fabs(y - 0.5F) > 0.5F);
  }
  const double before[] = {one.wrist[0], one.wrist[1]};
  one.wrist[0] = double((points[0] + points[2] + points[4]) / 3) * frame.width;
  one.wrist[1] = double((points[1] + points[3] + points[5]) / 3) * frame.height;
  if (visibility_[one.pose[0]] <= visible || outside) return one.lose();
  std::vector<float> region = one.region;
  const double distance = std::hypot(one.wrist[0] - before[0], one.wrist[1] - before[1]);
  if (!(distance < double(moved * std::hypot(region[2], region[3]))))  // NaN, where there was no hand, is not near
    region =
        graphs_
            .run(recrop, {frame.input, floats("points", {1, 3, 2}, points),
                          floats("landmarks", {1, 21, 2}, one.landmarks), floats("tracked", {1, 4}, one.region)})[0]
            .values;
  std::vector<Output> answer = graphs_.run(hand, {frame.input, floats("regions", {1, 4}, region)});
  if (!(answer[1].values[0] > present)) return one.lose();
  one.landmarks = std::move(answer[0].values), one.region = std::move(answer[2].values);
}

}  // namespace spoter::detail
