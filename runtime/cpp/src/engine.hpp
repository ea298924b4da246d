// ONNX Runtime, found when the first bundle is opened: its C interface by dlopen, so that any version from 1.20 serves.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

namespace spoter::detail {

struct SessionOptions {
  int threads = 0;       // 0: one per core
  bool optimise = true;  // false for a file that ONNX Runtime has optimised already
};

class Engine {
 public:
  explicit Engine(const char *library);  // NULL: $SPOTER_ONNXRUNTIME, or the system's
  const std::string &version() const { return version_; }

 private:
  friend class Session;
  void *const *api_;
  std::string version_;
};

class Session {
 public:
  Session(const Engine &engine, std::string_view model, const SessionOptions &options, const std::string &where);
  ~Session();
  Session(const Session &) = delete;
  Session &operator=(const Session &) = delete;

  // Thread-safe. `name` is the backend's, for messages.
  void run(const float *poses, const int32_t *lengths, size_t batch, size_t frames, size_t classes, float *logits,
           const std::string &name) const;

 private:
  void *const *api_;
  void *environment_ = nullptr, *session_ = nullptr, *memory_ = nullptr;
};

// Whether a version satisfies ">=1.25"; an empty requirement is satisfied.
void check_version(const std::string &needed, const std::string &version, const std::string &where);

}  // namespace spoter::detail
