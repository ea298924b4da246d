// ONNX Runtime, found when the first bundle is opened: its C interface by dlopen, so that any version from 1.20 serves.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace spoter::detail {

struct SessionOptions {
  int threads = 0;       // 0: one per core
  bool optimise = true;  // false for a file that ONNX Runtime has optimised already
  bool spin = true;      // idle threads spin instead of sleeping
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

// An input: float32, int32 or uint8 values that stay the caller's.
struct Input {
  const char *name;
  std::vector<int64_t> shape;
  const void *data;
  enum Type { float32 = 1, uint8 = 2, int32 = 6 } type = float32;  // numbers of ONNX
};

struct Output {
  std::vector<int64_t> shape;
  std::vector<float> values;
};

// An input or an output of a graph, as its file declares it.
struct Tensor {
  bool is_input;
  std::string name;
  int type = 0;                // a number of ONNX; 0 for what is no tensor
  std::vector<int64_t> shape;  // below 0: varies
};

class Session {
 public:
  Session(const Engine &engine, std::string_view model, const SessionOptions &options, const std::string &where);
  ~Session();
  Session(const Session &) = delete;
  Session &operator=(const Session &) = delete;

  std::vector<Tensor> tensors(const std::string &where) const;  // inputs, then outputs

  // Thread-safe. Returns float outputs; `where` names the call in messages.
  std::vector<Output> run(const std::vector<Input> &inputs, const std::vector<const char *> &outputs,
                          const std::string &where) const;

 private:
  void *describe(size_t index, Tensor &tensor) const;
  void *read(void *value, Output &output, const std::string &where) const;

  void *const *api_;
  void *environment_ = nullptr, *session_ = nullptr, *memory_ = nullptr;
};

// Whether a version satisfies ">=1.25"; an empty requirement is satisfied.
void check_version(const std::string &needed, const std::string &version, const std::string &where);

}  // namespace spoter::detail
