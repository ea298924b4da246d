// From a bundle and clips of landmarks to labels.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "bundle.hpp"
#include "engine.hpp"
#include "spoter/spoter.h"

namespace spoter::detail {

struct Options {
  const char *engine = nullptr;
  std::string backend, precision = "fp32";
  int threads = 0;
  bool resample = false;
};

class Recognizer {
 public:
  Recognizer(const std::string &path, const Options &options);

  void predict(const spoter_clip *clips, size_t count, spoter_prediction *predictions, float *logits) const;
  // A padded batch, whose values are checked.
  void infer(const float *poses, const int32_t *lengths, size_t batch, size_t frames, float *logits) const;
  // Logits of clips whose values are checked, in batches of similar lengths; `latency_ms` gets each batch's.
  void answer(const std::vector<std::vector<float>> &clips, float *logits, double *latency_ms) const;

  const Contract &contract() const { return contract_; }
  const std::string &backend() const { return backend_; }
  const std::string &file() const { return file_; }
  const std::string &onnxruntime() const { return engine_->version(); }
  const std::optional<Bundle> &bundle() const { return bundle_; }
  const Artefact *artefact() const { return artefact_; }

 private:
  void open(const std::string &where, const std::string &content, bool optimise, int threads);
  void open_best(const Options &options);
  void run(const float *poses, const int32_t *lengths, size_t batch, size_t frames, float *logits) const;
  spoter_prediction prediction(const std::vector<float> &clip, const float *logits, double latency_ms) const;

  std::optional<Engine> engine_;
  std::optional<Bundle> bundle_;
  Contract contract_;
  std::unique_ptr<Session> session_;
  const Artefact *artefact_ = nullptr;
  std::string backend_, file_;
  bool resample_;
};

void check_threads(int threads);  // throws Error; 0 is the default

spoter_replay verify(const std::string &path, const Options &options);

}  // namespace spoter::detail
