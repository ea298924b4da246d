// spoter.hpp: the C++17 face on spoter.h, header only. Failures are exceptions; objects free themselves.
#pragma once

#include <array>
#include <limits>
#include <optional>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "spoter/spoter.h"

namespace spoter {

// what() is the message, then the fix.
class Error : public std::runtime_error {
 public:
  explicit Error(spoter_status failed)
      : std::runtime_error(text()), status(failed), message(spoter_error_message()), fix(spoter_error_fix()) {}

  spoter_status status;
  std::string message, fix;

 private:
  static std::string text() {
    const std::string said = spoter_error_message(), remedy = spoter_error_fix();
    return remedy.empty() ? said : said + ". Fix: " + remedy;
  }
};

inline void check(spoter_status status) {
  if (status != SPOTER_OK) throw Error(status);
}

// An object of spoter.h, which frees itself; it can be moved, not copied.
template <class T, void (*destroy)(T *)>
class Handle {
 public:
  Handle() = default;
  ~Handle() { destroy(object_); }
  Handle(Handle &&other) noexcept : object_(std::exchange(other.object_, nullptr)) {}
  Handle &operator=(Handle &&other) noexcept {
    std::swap(object_, other.object_);
    return *this;
  }

  T **out() { return &object_; }  // where a spoter_*_create writes it
  operator T *() const { return object_; }

 private:
  T *object_ = nullptr;
};

// frames x 54 x 2 floats; the memory stays the caller's.
struct Clip {
  const float *landmarks = nullptr;
  std::size_t frames = 0;
  std::string name = "clip";
};

struct Prediction {
  std::string label;
  std::size_t index;
  double score;                       // softmax; not calibrated
  std::optional<double> probability;  // calibrated; none without a calibration in the bundle
  std::optional<bool> is_sign;
  std::string reason;
  double latency_ms;
  std::vector<float> logits;
};

struct Options {
  std::string onnxruntime, backend, precision;
  int threads = 0;
  bool resample = false;

  spoter_options raw() const {
    spoter_options made = SPOTER_OPTIONS_INIT;
    const auto pointer = [](const std::string &text) { return text.empty() ? nullptr : text.c_str(); };
    made.onnxruntime = pointer(onnxruntime), made.backend = pointer(backend), made.precision = pointer(precision);
    made.threads = threads, made.resample = resample;
    return made;
  }
};

class Recognizer {
 public:
  explicit Recognizer(const std::string &path, const Options &options = {}) {
    const spoter_options raw = options.raw();
    check(spoter_recognizer_create(path.c_str(), &raw, handle_.out()));
  }

  std::size_t max_frames() const { return spoter_recognizer_max_frames(handle_); }
  std::string backend() const { return spoter_recognizer_backend(handle_); }
  std::string onnxruntime() const { return spoter_recognizer_onnxruntime(handle_); }
  const spoter_recognizer *handle() const { return handle_; }

  std::vector<spoter_label> labels() const {
    std::vector<spoter_label> made;
    for (std::size_t i = 0; i < spoter_recognizer_label_count(handle_); ++i)
      made.push_back(spoter_recognizer_label(handle_, i));
    return made;
  }

  Prediction predict(const Clip &clip) const { return predict_many({clip}).front(); }

  std::vector<Prediction> predict_many(const std::vector<Clip> &clips) const {
    std::vector<spoter_clip> raw;
    for (const Clip &clip : clips) raw.push_back({clip.landmarks, clip.frames, clip.name.c_str()});
    const std::size_t classes = spoter_recognizer_label_count(handle_);
    std::vector<spoter_prediction> found(clips.size());
    std::vector<float> logits(clips.size() * classes);
    check(spoter_predict_many(handle_, raw.data(), raw.size(), found.data(), logits.data()));
    std::vector<Prediction> made;
    for (std::size_t i = 0; i < found.size(); ++i) {
      const spoter_prediction &one = found[i];
      const float *begin = logits.data() + i * classes;
      Prediction prediction{one.name, one.label,  one.score,      {},
                            {},       one.reason, one.latency_ms, {begin, begin + classes}};
      if (one.is_sign >= 0) prediction.probability = one.probability, prediction.is_sign = one.is_sign == 1;
      made.push_back(std::move(prediction));
    }
    return made;
  }

 private:
  Handle<spoter_recognizer, spoter_recognizer_destroy> handle_;
};

// The frames of a video, one after the other, to the 54 landmarks of a person. For one video and one thread at a time.
class Landmarker {
 public:
  // The landmarker of a bundle, or in a folder of its own; of the options onnxruntime and threads are used.
  explicit Landmarker(const std::string &path, const Options &options = {}) {
    const spoter_options raw = options.raw();
    check(spoter_landmarker_create(path.c_str(), &raw, handle_.out()));
  }

  // height rows of width x 3 bytes, `stride` bytes from row to row; 0: without gaps. t_ms that is NaN: 1/30 s after the
  // frame before. Returns 54 x 2 floats in 0..1, NaN where not detected.
  std::array<float, SPOTER_FEATURES> accept(const std::uint8_t *rgb, std::size_t height, std::size_t width,
                                            std::size_t stride = 0,
                                            double t_ms = std::numeric_limits<double>::quiet_NaN()) {
    std::array<float, SPOTER_FEATURES> landmarks;
    check(spoter_landmarker_accept(handle_, rgb, height, width, stride, t_ms, landmarks.data()));
    return landmarks;
  }
  void reset() { check(spoter_landmarker_reset(handle_)); }
  int persons() const { return spoter_landmarker_persons(handle_); }  // 0, 1, or 2 for more than one
  std::string sha256() const { return spoter_landmarker_sha256(handle_); }

 private:
  Handle<spoter_landmarker, spoter_landmarker_destroy> handle_;
};

// An event of a stream; docs/reference/events.md describes them. NaN or empty: this type has no such field.
struct Event {
  std::string type;
  double t_ms, start_ms, end_ms, score, probability;
  std::string label, code, reason;
  std::string json;  // all of it, in one line
};

// Frames of landmarks with their times go in, events come out. One thread at a time; the recogniser must outlive it.
class SignStream {
 public:
  // settings: a JSON object such as {"rest_ms": 120}; empty: the defaults.
  explicit SignStream(const Recognizer &recognizer, const std::string &gate = "rest",
                      const std::string &settings = {}) {
    check(spoter_stream_create(recognizer.handle(), gate.c_str(), settings.empty() ? nullptr : settings.c_str(),
                               handle_.out()));
  }
  explicit SignStream(const Recognizer &&, const std::string & = {},
                      const std::string & = {}) = delete;  // it would end

  // 54 x 2 floats. dropped: frames that the source dropped before this one; persons: -1 where that is not known.
  void accept(const float *landmarks, double t_ms, std::size_t dropped = 0, int persons = -1) {
    check(spoter_stream_accept_landmarks(handle_, landmarks, t_ms, dropped, persons));
  }
  void push(bool signing) { check(spoter_stream_push(handle_, signing)); }
  void flush() { check(spoter_stream_flush(handle_)); }
  void reset() { check(spoter_stream_reset(handle_)); }

  // The events since the last call.
  std::vector<Event> events() {
    std::vector<Event> found;
    const auto text = [](const char *given) { return std::string(given ? given : ""); };
    for (spoter_event e = {}; check(spoter_stream_next_event(handle_, &e)), e.type;)
      found.push_back({e.type, e.t_ms, e.start_ms, e.end_ms, e.score, e.probability, text(e.label), text(e.code),
                       text(e.reason), e.json});
    return found;
  }

 private:
  Handle<spoter_stream, spoter_stream_destroy> handle_;
};

inline spoter_replay verify(const std::string &path, const Options &options = {}) {
  const spoter_options raw = options.raw();
  spoter_replay replay = {};
  check(spoter_verify(path.c_str(), &raw, &replay));
  return replay;
}

inline spoter_landmarker_replay verify_landmarker(const std::string &path, const Options &options = {}) {
  const spoter_options raw = options.raw();
  spoter_landmarker_replay replay = {};
  check(spoter_landmarker_verify(path.c_str(), &raw, &replay));
  return replay;
}

}  // namespace spoter
