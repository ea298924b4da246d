#include "engine.hpp"

#include <dlfcn.h>
#include <cstdlib>
#include <cstring>
#include <mutex>

#include "error.hpp"
#include "files.hpp"

namespace spoter::detail {
namespace {

// ONNX Runtime's C interface is a table of functions that only grows at its end, so a place in it keeps its meaning;
// onnxruntime_c_api.h names them in this order. No header is needed, and so no version of it is baked in.
enum Place : size_t {
  get_error_message = 2,
  create_env = 3,
  create_session_from_array = 8,
  run_session = 9,
  create_session_options = 10,
  set_log_severity = 22,
  set_optimization_level = 23,
  set_intra_threads = 24,
  set_inter_threads = 25,
  create_tensor = 49,
  get_tensor_data = 51,
  get_element_type = 60,
  get_dimensions_count = 61,
  get_dimensions = 62,
  get_shape = 65,
  create_cpu_memory_info = 69,
  release_env = 92,
  release_status = 93,
  release_memory_info = 94,
  release_session = 95,
  release_value = 96,
  release_shape = 99,
  release_session_options = 100,
};

constexpr uint32_t api_version = 20;  // of the oldest version that our files need
constexpr int is_float = 1, is_int32 = 6, errors_only = 3;

struct ApiBase {
  void *const *(*get_api)(uint32_t version);
  const char *(*version)();
};

template <class... Arguments>
void *call(void *const *api, Place place, Arguments... arguments) {
  return reinterpret_cast<void *(*)(Arguments...)>(api[place])(arguments...);
}

void release(void *const *api, Place place, void *object) {
  if (object) reinterpret_cast<void (*)(void *)>(api[place])(object);
}

std::string message_of(void *const *api, void *status) {
  std::string message = reinterpret_cast<const char *(*)(void *)>(api[get_error_message])(status);
  release(api, release_status, status);
  return message;
}

// Releases an object at the end of a scope.
struct Held {
  void *const *api;
  Place place;
  void *object = nullptr;
  ~Held() { release(api, place, object); }
};

// ONNX Runtime 1.29 and later report to Microsoft over the network unless this is set before they are loaded.
void switch_telemetry_off() {
  static std::once_flag once;
  std::call_once(once, [] { setenv("ORT_DISABLE_TELEMETRY", "1", 0); });
}

}  // namespace

Engine::Engine(const char *library) {
  switch_telemetry_off();
  const char *named = library && *library ? library : std::getenv("SPOTER_ONNXRUNTIME");
  void *handle = nullptr;
  std::string why;
  const auto open = [&](const char *name) {
    if (handle) return;
    handle = dlopen(name, RTLD_NOW | RTLD_LOCAL);
    if (!handle) why += (why.empty() ? "" : "; ") + std::string(dlerror());
  };
  if (named && *named) {
    if (std::strchr(named, '/') && !is_file(named)) why = std::string(named) + ": no such file";
    else open(named);
  } else {
    open("libonnxruntime.so.1");
    open("libonnxruntime.so");
  }
  const auto base_of = reinterpret_cast<const ApiBase *(*)()>(handle ? dlsym(handle, "OrtGetApiBase") : nullptr);
  if (!base_of)
    fail(SPOTER_MISSING_ENGINE_ERROR, "ONNX Runtime cannot be loaded: " + (handle ? "it is no ONNX Runtime" : why),
         "name its library in spoter_options.onnxruntime or in SPOTER_ONNXRUNTIME");
  version_ = base_of()->version();
  api_ = base_of()->get_api(api_version);
  if (!api_) fail(SPOTER_BACKEND_ERROR, "needs ONNX Runtime 1.20 or newer, here is " + version_);
}

Session::Session(const Engine &engine, std::string_view model, const SessionOptions &options, const std::string &where)
    : api_(engine.api_) {
  Held settings{api_, release_session_options};
  void *status = call(api_, create_env, errors_only, "spoter", &environment_);
  if (!status) status = call(api_, create_cpu_memory_info, 1, 0, &memory_);  // OrtArenaAllocator, OrtMemTypeDefault
  if (!status) status = call(api_, create_session_options, &settings.object);
  if (!status) status = call(api_, set_log_severity, settings.object, errors_only);
  if (!status && !options.optimise) status = call(api_, set_optimization_level, settings.object, 0);
  if (!status && options.threads) status = call(api_, set_intra_threads, settings.object, options.threads);
  if (!status && options.threads) status = call(api_, set_inter_threads, settings.object, 1);
  const auto *environment = static_cast<const void *>(environment_);
  const auto *final_settings = static_cast<const void *>(settings.object);
  const auto *bytes = static_cast<const void *>(model.data());
  if (!status)
    status = call(api_, create_session_from_array, environment, bytes, model.size(), final_settings, &session_);
  if (!status) return;
  const std::string message = message_of(api_, status);
  release(api_, release_memory_info, memory_);
  release(api_, release_env, environment_);
  fail(SPOTER_BACKEND_ERROR, where + ": ONNX Runtime " + engine.version() + " cannot load it: " + message);
}

Session::~Session() {
  release(api_, release_session, session_);
  release(api_, release_memory_info, memory_);
  release(api_, release_env, environment_);
}

void Session::run(const float *poses, const int32_t *lengths, size_t batch, size_t frames, size_t classes,
                  float *logits, const std::string &name) const {
  const int64_t poses_shape[] = {int64_t(batch), int64_t(frames), SPOTER_FEATURES}, lengths_shape[] = {int64_t(batch)};
  Held clips{api_, release_value}, counts{api_, release_value}, answer{api_, release_value}, shape{api_, release_shape};
  const auto *memory = static_cast<const void *>(memory_);
  const size_t clips_size = batch * frames * SPOTER_FEATURES * sizeof(float);
  void *status = call(api_, create_tensor, memory, const_cast<float *>(poses), clips_size, poses_shape, size_t{3},
                      is_float, &clips.object);
  if (!status)
    status = call(api_, create_tensor, memory, const_cast<int32_t *>(lengths), batch * sizeof(int32_t), lengths_shape,
                  size_t{1}, is_int32, &counts.object);
  static const char *const inputs[] = {"poses", "lengths"}, *const outputs[] = {"logits"};
  const void *const values[] = {clips.object, counts.object};
  const void *const no_options = nullptr;
  if (!status)
    status =
        call(api_, run_session, session_, no_options, inputs, values, size_t{2}, outputs, size_t{1}, &answer.object);
  int type = 0;
  size_t dimensions = 0;
  int64_t sizes[2] = {};
  float *data = nullptr;
  const auto *found = static_cast<const void *>(answer.object);
  if (!status) status = call(api_, get_shape, found, &shape.object);
  const auto *found_shape = static_cast<const void *>(shape.object);
  if (!status) status = call(api_, get_element_type, found_shape, &type);
  if (!status) status = call(api_, get_dimensions_count, found_shape, &dimensions);
  if (!status && dimensions == 2) status = call(api_, get_dimensions, found_shape, sizes, size_t{2});
  if (!status) status = call(api_, get_tensor_data, answer.object, &data);
  const std::string tried = "(" + std::to_string(batch) + ", " + std::to_string(frames) + ", 108)";
  if (status) fail(SPOTER_BACKEND_ERROR, name + ": failed on poses " + tried + ": " + message_of(api_, status));
  if (type != is_float || dimensions != 2 || sizes[0] != int64_t(batch) || sizes[1] != int64_t(classes))
    fail(SPOTER_BACKEND_ERROR, name + ": expected logits (" + std::to_string(batch) + ", " + std::to_string(classes) +
                                   ") float32, got (" + std::to_string(sizes[0]) + ", " + std::to_string(sizes[1]) +
                                   ")");
  std::memcpy(logits, data, batch * classes * sizeof(float));
}

void check_version(const std::string &needed, const std::string &version, const std::string &where) {
  const std::string least = needed.compare(0, 2, ">=") == 0 ? needed.substr(2) : needed;
  const auto numbers = [](const std::string &text) {  // the first two
    std::pair<long, long> found = {-1, -1};
    for (const char *at = text.c_str(); *at && found.second < 0;) {
      if (*at < '0' || *at > '9') {
        ++at;
        continue;
      }
      char *end = nullptr;
      (found.first < 0 ? found.first : found.second) = std::strtol(at, &end, 10);
      at = end;
    }
    return found;
  };
  if (numbers(version) < numbers(least))
    fail(SPOTER_BACKEND_ERROR, where + ": needs onnxruntime " + least + ", here is " + version,
         "a newer ONNX Runtime, or ort-cpu with model.onnx");
}

}  // namespace spoter::detail
