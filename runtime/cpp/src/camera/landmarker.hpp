// The landmarker: one frame after the other to the 54 landmarks, as MediaPipe's Holistic finds them.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "../engine.hpp"
#include "files.hpp"
#include "smoothing.hpp"
#include "spoter/spoter.h"

namespace spoter::detail {

// The four graphs of a landmarker.
class LandmarkerGraphs {
 public:
  LandmarkerGraphs(const LandmarkerFiles &files, const char *engine, int threads);  // throws Error

  // Runs one of `landmarker_graphs`; returns its outputs in their order.
  std::vector<Output> run(size_t graph, const std::vector<Input> &inputs) const;

 private:
  Engine engine_;
  std::unique_ptr<Session> sessions_[4];
};

// Finds the landmarks of one person in the frames of one video, in their order.
class Landmarker {
 public:
  Landmarker(const std::string &path, const char *engine, int threads);

  void reset();  // forgets the frames before: the next one belongs to another video
  // Writes the landmarks in 0..1 of the frame, NaN where not detected. `t_ms` that is NaN: 1/30 s after the frame
  // before.
  void accept(const uint8_t *rgb, size_t height, size_t width, size_t stride, double t_ms, float *landmarks);

  const std::string &sha256() const { return files_.sha256; }
  int persons() const { return persons_; }  // seen when the body was last looked for: 0, 1, or 2 for more than one

 private:
  // One hand of the signer, and where it was in the last frame; NaN where it was not found.
  struct Hand {
    size_t first;                // its place among the 54 landmarks
    std::array<size_t, 3> pose;  // MediaPipe Pose indices of its wrist, little and index finger
    std::vector<float> landmarks = {}, region = {};
    double wrist[2] = {};
    void lose();
  };
  struct Frame {
    Input input;
    double width, height;
  };

  void lose_body();
  double elapsed_s_until(double t_ms);
  void find(const Frame &frame, double elapsed_s, float *landmarks);
  std::vector<float> find_body(const Frame &frame, double elapsed_s);
  void find_hand(const Frame &frame, Hand &hand, const std::vector<float> &pose);

  LandmarkerFiles files_;
  LandmarkerGraphs graphs_;
  int persons_ = 0;
  OneEuroFilter body_{0.05, 80}, body_region_{0.01, 10};
  std::optional<double> t_ms_;
  size_t height_ = 0, width_ = 0;
  std::vector<uint8_t> pixels_;  // of a frame whose rows have gaps
  std::vector<float> region_, visibility_;
  std::array<Hand, 2> hands_;
};

}  // namespace spoter::detail
