#include "recognizer.hpp"

#include <sched.h>
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <numeric>

#include "clip.hpp"
#include "error.hpp"
#include "files.hpp"
#include "onnx_file.hpp"

namespace spoter::detail {
namespace {

constexpr double most_padding = 0.1;  // of a batch: with more, a second call is cheaper
constexpr size_t most_clips = 8;      // of a batch; larger ones gain little
constexpr const char *fused = "ort-cpu-fused", *plain = "ort-cpu";

size_t usable_cores() {
  cpu_set_t cores;
  if (sched_getaffinity(0, sizeof cores, &cores)) return 1;
  size_t count = static_cast<size_t>(CPU_COUNT(&cores));
  if (std::FILE *quota = std::fopen("/sys/fs/cgroup/cpu.max", "re")) {  // a container's
    double allowed = 0, period = 0;
    if (std::fscanf(quota, "%lf %lf", &allowed, &period) == 2 && period > 0)
      count = std::max<size_t>(1, std::min<size_t>(count, static_cast<size_t>(std::ceil(allowed / period))));
    std::fclose(quota);
  }
  return count;
}

bool ends_with(const std::string &text, const char *end) {
  const size_t size = std::strlen(end);
  return text.size() > size && text.compare(text.size() - size, size, end) == 0;
}

std::string content_of_lone(const std::string &path) {
  try {
    return File(path, model_bytes).read();
  } catch (const SystemError &error) {
    if (is_file(path)) bad_bundle(path + ": cannot be read (" + error.reason + ")", "copy it again");
    bad_bundle(path + (is_there(path) ? ": is not a file" : ": no such file"),
               "check the path, or spoter-kit export makes one");
  }
}

Contract contract_of(const std::map<std::string, std::string> &metadata, const std::string &where) {
  const auto found = metadata.find("spoter_kit.contract");
  if (found == metadata.end())
    bad_bundle(where + ": no 'spoter_kit.contract' in its metadata, so it was not exported by spoter-kit");
  try {
    return contract_from_json(parse_json(found->second), where);
  } catch (const ValueError &error) {
    bad_bundle(where + ": the contract in its metadata is damaged: " + error.message);
  }
}

// Clips of similar length together, longest first.
std::vector<std::vector<size_t>> batches_of(const std::vector<size_t> &lengths, size_t most) {
  std::vector<size_t> order(lengths.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) { return lengths[a] > lengths[b]; });
  std::vector<std::vector<size_t>> batches;
  size_t frames = 0;  // of the clips in the last batch, without padding
  for (const size_t place : order) {
    const size_t padded = batches.empty() ? 0 : (batches.back().size() + 1) * lengths[batches.back().front()];
    const bool fits = padded && batches.back().size() < most &&
                      double(padded) - double(frames) - double(lengths[place]) <= most_padding * double(padded);
    if (!fits) batches.emplace_back(), frames = 0;
    batches.back().push_back(place);
    frames += lengths[place];
  }
  return batches;
}

}  // namespace

void check_threads(int threads) {
  if (threads < 0 || threads > 256)
    fail(SPOTER_BACKEND_ERROR, "threads=" + std::to_string(threads) + ": expected a whole number, 1..256");
  const size_t cores = threads > 1 ? usable_cores() : 1;
  if (static_cast<size_t>(threads) > cores)
    fail(SPOTER_BACKEND_ERROR, "threads=" + std::to_string(threads) + ": this process may use " + std::to_string(cores),
         "threads=" + std::to_string(cores));
}

Recognizer::Recognizer(const std::string &path, const Options &options) : resample_(options.resample) {
  check_threads(options.threads);
  if (!options.backend.empty() && options.backend != fused && options.backend != plain)
    fail(SPOTER_BACKEND_ERROR, "unknown backend '" + options.backend + "'; there are ort-cpu-fused, ort-cpu");
  if (ends_with(path, ".onnx") && is_there(path) && !is_folder(path)) {
    if (options.backend == fused)
      fail(SPOTER_BACKEND_ERROR, path + ": a lone ONNX file runs on ort-cpu, not on " + options.backend);
    const std::string content = content_of_lone(path);
    engine_.emplace(options.engine);
    backend_ = plain, file_ = path;
    open(path, content, true, options.threads);
    return;
  }
  bundle_ = read_bundle(path);
  engine_.emplace(options.engine);
  open_best(options);
}

void Recognizer::open_best(const Options &options) {
  const Artefact &original = bundle_->onnx(options.precision);
  const Artefact *optimised = bundle_->find("ort", options.precision);
  std::string why;
  for (const char *name : {fused, plain}) {
    if (!options.backend.empty() && options.backend != name) continue;
    try {
      if (name == fused && !optimised)
        fail(SPOTER_BACKEND_ERROR, bundle_->folder + ": has no " + options.precision + " file made for ONNX Runtime",
             plain);
      artefact_ = name == fused ? optimised : &original;
      backend_ = name, file_ = artefact_->path;
      const std::string where = joined(bundle_->folder, artefact_->path);
      const auto needed = artefact_->needs.find("onnxruntime");
      if (name == fused && needed != artefact_->needs.end()) check_version(needed->second, engine_->version(), where);
      return open(where, bundle_->read(artefact_->path), name != fused, options.threads);
    } catch (const Error &error) {
      if (error.status != SPOTER_BACKEND_ERROR || !options.backend.empty())
        throw;  // a damaged bundle is no backend's fault
      why += "\n  " + std::string(name) + ": " + in_words(error);
    }
  }
  fail(SPOTER_BACKEND_ERROR, bundle_->folder + ": no backend works here:" + why);
}

void Recognizer::open(const std::string &where, const std::string &content, bool optimise, int threads) {
  const auto metadata = check_onnx(content, where);
  const auto needed = metadata.find("spoter_kit.requires");
  if (needed != metadata.end()) check_version(needed->second, engine_->version(), where);
  contract_ = contract_of(metadata, where);
  session_ = std::make_unique<Session>(*engine_, content, SessionOptions{threads, optimise}, where);
  check_tensors(session_->tensors(where), contract_, where);
}

void Recognizer::run(const float *poses, const int32_t *lengths, size_t batch, size_t frames, float *logits) const {
  const size_t classes = contract_.labels.size();
  const auto rows = static_cast<int64_t>(batch);
  const std::string tried = "(" + std::to_string(batch) + ", " + std::to_string(frames) + ", 108)";
  const std::vector<Output> found =
      session_->run({{"poses", {rows, static_cast<int64_t>(frames), SPOTER_FEATURES}, poses},
                     {"lengths", {rows}, lengths, Input::int32}},
                    {"logits"}, backend_ + ": failed on poses " + tried + ": ");
  if (const auto &shape = found[0].shape; shape != std::vector<int64_t>{rows, static_cast<int64_t>(classes)}) {
    std::string words;
    for (const int64_t size : shape) words += (words.empty() ? "" : ", ") + std::to_string(size);
    fail(SPOTER_BACKEND_ERROR, backend_ + ": expected logits (" + std::to_string(batch) + ", " +
                                   std::to_string(classes) + ") float32, got (" + words + ")");
  }
  std::copy(found[0].values.begin(), found[0].values.end(), logits);
  if (!std::all_of(logits, logits + batch * classes, [](float value) { return std::isfinite(value); }))
    fail(SPOTER_NOT_FINITE_ERROR, backend_ + ": logits are not finite for poses " + tried);
}

void Recognizer::infer(const float *poses, const int32_t *lengths, size_t batch, size_t frames, float *logits) const {
  const auto check = [](const char *what, size_t value, const char *unit, int64_t most) {
    if (value < 1 || value > static_cast<size_t>(most))
      fail(SPOTER_INPUT_ERROR, std::string("poses: ") + what + std::to_string(value) + unit +
                                   ", the contract takes 1.." + std::to_string(most));
  };
  check("batch of ", batch, "", contract_.max_batch);
  check("", frames, " frames", contract_.max_frames);
  if (!poses || !logits) fail(SPOTER_INPUT_ERROR, std::string(poses ? "logits" : "poses") + " is NULL");
  std::vector<int32_t> all(lengths ? 0 : batch, static_cast<int32_t>(frames));
  if (lengths) {
    const auto [least, most] = std::minmax_element(lengths, lengths + batch);
    if (*least < 1 || *most > static_cast<int32_t>(frames))
      fail(SPOTER_INPUT_ERROR, "lengths: expected 1.." + std::to_string(frames) + " (the frames given), got " +
                                   std::to_string(*least) + ".." + std::to_string(*most));
  }
  check_batch(poses, lengths, batch, frames);
  run(poses, lengths ? lengths : all.data(), batch, frames, logits);
}

void Recognizer::answer(const std::vector<std::vector<float>> &clips, float *logits, double *latency_ms) const {
  const size_t classes = contract_.labels.size();
  std::vector<size_t> frames;
  for (const auto &clip : clips) frames.push_back(clip.size() / SPOTER_FEATURES);
  std::vector<float> padded, answers;
  for (const auto &batch : batches_of(frames, std::min(most_clips, static_cast<size_t>(contract_.max_batch)))) {
    const size_t longest = frames[batch.front()];
    std::vector<int32_t> lengths;
    const float *poses = clips[batch.front()].data();
    if (batch.size() > 1) {
      padded.assign(batch.size() * longest * SPOTER_FEATURES, 0);
      for (size_t i = 0; i < batch.size(); ++i)
        std::copy(clips[batch[i]].begin(), clips[batch[i]].end(), &padded[i * longest * SPOTER_FEATURES]);
      poses = padded.data();
    }
    for (const size_t place : batch) lengths.push_back(static_cast<int32_t>(frames[place]));
    answers.resize(batch.size() * classes);
    const auto begin = std::chrono::steady_clock::now();
    run(poses, lengths.data(), batch.size(), longest, answers.data());
    const std::chrono::duration<double, std::milli> took = std::chrono::steady_clock::now() - begin;
    for (size_t i = 0; i < batch.size(); ++i) {
      std::copy_n(&answers[i * classes], classes, logits + batch[i] * classes);
      latency_ms[batch[i]] = took.count();
    }
  }
}

spoter_prediction Recognizer::prediction(const std::vector<float> &clip, const float *logits, double latency_ms) const {
  const std::vector<Label> &labels = contract_.labels;
  const auto best = static_cast<size_t>(std::max_element(logits, logits + labels.size()) - logits);
  const Decision decision = decide(logits, labels, clip, bundle_ ? bundle_->abstention : std::nullopt);
  spoter_prediction made = {};
  made.label = best;
  made.name = labels[best].name.c_str();
  made.score = softmax(logits, labels.size())[best];
  made.probability = decision.probability;
  made.is_sign = decision.is_sign;
  made.latency_ms = latency_ms;
  size_t size = std::min(decision.reason.size(), sizeof made.reason - 1);
  while (size < decision.reason.size() && size && (decision.reason[size] & 0xC0) == 0x80) --size;  // whole letters
  std::memcpy(made.reason, decision.reason.data(), size);
  return made;
}

void Recognizer::predict(const spoter_clip *clips, size_t count, spoter_prediction *predictions, float *logits) const {
  std::vector<std::vector<float>> checked;
  for (size_t i = 0; i < count; ++i) {
    const std::string name = clips[i].name ? clips[i].name : count == 1 ? "clip" : "clip " + std::to_string(i);
    checked.push_back(checked_clip(clips[i], static_cast<size_t>(contract_.max_frames), resample_, name));
  }
  const size_t classes = contract_.labels.size();
  std::vector<float> found(count * classes);
  std::vector<double> latency_ms(count);
  answer(checked, found.data(), latency_ms.data());
  for (size_t i = 0; i < count; ++i) predictions[i] = prediction(checked[i], &found[i * classes], latency_ms[i]);
  if (logits) std::copy(found.begin(), found.end(), logits);
}

spoter_replay verify(const std::string &path, const Options &options) {
  spoter_replay replay = {};
  replay.files = read_bundle(path).check_files();
  const Recognizer recognizer(path, options);
  if (!(recognizer.contract() == recognizer.bundle()->contract))
    bad_bundle(path + ": the model carries another contract than bundle.json");
  const std::vector<Golden> goldens = recognizer.bundle()->goldens();
  const size_t classes = recognizer.contract().labels.size();
  std::vector<float> logits(classes);
  replay.clips = goldens.size();
  replay.tolerance = recognizer.artefact()->max_logit_diff;
  bool finite = true;
  double largest = std::nan("");
  for (const Golden &golden : goldens) {
    const auto frames = static_cast<int32_t>(golden.poses.size() / SPOTER_FEATURES);
    try {
      recognizer.infer(golden.poses.data(), &frames, 1, static_cast<size_t>(frames), logits.data());
    } catch (const Error &error) {
      if (error.status != SPOTER_NOT_FINITE_ERROR) throw;
      finite = false;
      continue;
    }
    const auto best = [&](const std::vector<float> &of) { return std::max_element(of.begin(), of.end()) - of.begin(); };
    replay.labels_agree += best(logits) == best(golden.logits);
    for (size_t i = 0; i < classes; ++i)
      largest = std::fmax(largest, std::fabs(double(logits[i]) - double(golden.logits[i])));
  }
  const bool agrees = replay.labels_agree == replay.clips || recognizer.artefact()->precision != "fp32";
  replay.max_logit_diff = largest;
  replay.passed = finite && agrees && largest <= replay.tolerance;
  return replay;
}

}  // namespace spoter::detail
