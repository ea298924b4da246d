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
  get_input_count = 30,
  get_output_count = 31,
  get_input_type = 33,
  get_output_type = 34,
  get_input_name = 36,
  get_output_name = 37,
  create_tensor = 49,
  get_tensor_data = 51,
  cast_to_tensor = 55,
  get_element_type = 60,
  get_dimensions_count = 61,
  get_dimensions = 62,
  get_shape = 65,
  create_cpu_memory_info = 69,
  free_text = 76,
  get_allocator = 78,
  release_env = 92,
  release_status = 93,
  release_memory_info = 94,
  release_session = 95,
  release_value = 96,
  release_type_info = 98,
  release_shape = 99,
  release_session_options = 100,
  add_session_config_entry = 130,
};

constexpr uint32_t api_version = 20;  // of the oldest version that our files need
constexpr int errors_only = 3;

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

// The same for the inputs or the outputs of a call.
struct Values {
  void *const *api;
  std::vector<void *> objects = {};
  ~Values() {
    for (void *object : objects) release(api, release_value, object);
  }
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
  if (!status && !options.spin)
    status = call(api_, add_session_config_entry, settings.object, "session.intra_op.allow_spinning", "0");
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

std::vector<Tensor> Session::tensors(const std::string &where) const {
  std::vector<Tensor> found;
  const void *session = session_;
  for (const bool is_input : {true, false}) {
    size_t count = 0;
    void *status = call(api_, is_input ? get_input_count : get_output_count, session, &count);
    for (size_t i = 0; i < count && !status; ++i) {
      found.push_back({is_input, {}, 0, {}});
      status = describe(i, found.back());
    }
    if (status) fail(SPOTER_BACKEND_ERROR, where + ": " + message_of(api_, status));
  }
  return found;
}

// Fills an input or an output in; returns ONNX Runtime's status.
void *Session::describe(size_t index, Tensor &tensor) const {
  Held info{api_, release_type_info};
  void *allocator = nullptr;  // the engine's own
  char *name = nullptr;
  const void *session = session_, *shape = nullptr;
  size_t dimensions = 0;
  void *status = call(api_, get_allocator, &allocator);
  if (!status) status = call(api_, tensor.is_input ? get_input_name : get_output_name, session, index, allocator, &name);
  if (status) return status;
  tensor.name = name;
  status = call(api_, free_text, allocator, static_cast<void *>(name));
  if (!status) status = call(api_, tensor.is_input ? get_input_type : get_output_type, session, index, &info.object);
  if (!status) status = call(api_, cast_to_tensor, static_cast<const void *>(info.object), &shape);
  if (status || !shape) return status;
  status = call(api_, get_element_type, shape, &tensor.type);
  if (!status) status = call(api_, get_dimensions_count, shape, &dimensions);
  tensor.shape.resize(dimensions);
  return status ? status : call(api_, get_dimensions, shape, tensor.shape.data(), dimensions);
}

std::vector<Output> Session::run(const std::vector<Input> &inputs, const std::vector<const char *> &outputs,
                                 const std::string &where) const {
  Values given{api_}, found{api_};
  std::vector<const char *> names;
  void *status = nullptr;
  for (const Input &input : inputs) {
    size_t bytes = input.type == Input::uint8 ? 1 : 4;
    for (const int64_t size : input.shape) bytes *= static_cast<size_t>(size);
    names.push_back(input.name);
    given.objects.push_back(nullptr);
    if (!status)
      status = call(api_, create_tensor, static_cast<const void *>(memory_), const_cast<void *>(input.data), bytes,
                    input.shape.data(), input.shape.size(), int(input.type), &given.objects.back());
  }
  found.objects.resize(outputs.size());
  const void *const no_options = nullptr;
  const auto *values = const_cast<const void *const *>(given.objects.data());
  if (!status)
    status = call(api_, run_session, session_, no_options, names.data(), values, names.size(), outputs.data(),
                  outputs.size(), found.objects.data());
  std::vector<Output> made;
  for (size_t i = 0; i < outputs.size() && !status; ++i) {
    made.emplace_back();
    status = read(found.objects[i], made.back(), where);
  }
  if (status) fail(SPOTER_BACKEND_ERROR, where + message_of(api_, status));
  return made;
}

// Copies a float tensor out; returns ONNX Runtime's status.
void *Session::read(void *value, Output &output, const std::string &where) const {
  Held shape{api_, release_shape};
  int type = 0;
  size_t dimensions = 0;
  float *data = nullptr;
  void *status = call(api_, get_shape, static_cast<const void *>(value), &shape.object);
  const auto *found = static_cast<const void *>(shape.object);
  if (!status) status = call(api_, get_element_type, found, &type);
  if (!status) status = call(api_, get_dimensions_count, found, &dimensions);
  output.shape.resize(dimensions);
  if (!status) status = call(api_, get_dimensions, found, output.shape.data(), dimensions);
  if (!status) status = call(api_, get_tensor_data, value, &data);
  if (status) return status;
  if (type != Input::float32) fail(SPOTER_BACKEND_ERROR, where + "an output is not float32");
  size_t count = 1;
  for (const int64_t size : output.shape) count *= static_cast<size_t>(size);
  output.values.assign(data, data + count);
  return nullptr;
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
