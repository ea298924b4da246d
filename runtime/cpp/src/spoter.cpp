// The C interface: no exception leaves it.
#include "spoter/spoter.h"

#include <new>
#include <string>

#include "camera/goldens.hpp"
#include "camera/landmarker.hpp"
#include "error.hpp"
#include "live/stream.hpp"
#include "recognizer.hpp"

struct spoter_recognizer : spoter::detail::Recognizer {
  using Recognizer::Recognizer;
};

struct spoter_landmarker : spoter::detail::Landmarker {
  using Landmarker::Landmarker;
};

struct spoter_stream : spoter::detail::SignStream {
  using SignStream::SignStream;
};

namespace {

using spoter::detail::Error;
using spoter::detail::Options;

thread_local Error last = {SPOTER_OK, {}, {}};

template <class Work>
spoter_status guarded(Work work) noexcept {
  try {
    last = {SPOTER_OK, {}, {}};
    work();
  } catch (Error &error) {
    last = std::move(error);
  } catch (const std::bad_alloc &) {
    last = {SPOTER_MEMORY_ERROR, {}, {}};
  } catch (const std::exception &error) {
    last = {SPOTER_INTERNAL_ERROR, error.what(), {}};
  } catch (...) {
    last = {SPOTER_INTERNAL_ERROR, {}, {}};
  }
  return last.status;
}

void need(const void *pointer, const char *name) {
  if (!pointer) spoter::detail::fail(SPOTER_INPUT_ERROR, std::string(name) + " is NULL");
}

Options options_from(const spoter_options *given) {
  Options options;
  if (!given) return options;
  if (given->size < sizeof(spoter_options))
    spoter::detail::fail(
        SPOTER_INPUT_ERROR,
        "options: size " + std::to_string(given->size) + ", expected " + std::to_string(sizeof(spoter_options)),
        "begin with SPOTER_OPTIONS_INIT");
  options.engine = given->onnxruntime;
  if (given->backend) options.backend = given->backend;
  if (given->precision) options.precision = given->precision;
  options.threads = given->threads;
  options.resample = given->resample != 0;
  return options;
}

}  // namespace

extern "C" {

const char *spoter_version(void) { return SPOTER_VERSION; }

const char *spoter_error_message(void) {
  return last.status == SPOTER_MEMORY_ERROR ? "no memory left" : last.message.c_str();
}

const char *spoter_error_fix(void) { return last.fix.c_str(); }

spoter_status spoter_recognizer_create(const char *path, const spoter_options *options,
                                       spoter_recognizer **recognizer) {
  return guarded([&] {
    need(recognizer, "recognizer");
    *recognizer = nullptr;
    need(path, "path");
    *recognizer = new spoter_recognizer(path, options_from(options));
  });
}

void spoter_recognizer_destroy(spoter_recognizer *recognizer) { delete recognizer; }

const char *spoter_recognizer_backend(const spoter_recognizer *recognizer) {
  return recognizer ? recognizer->backend().c_str() : "";
}

const char *spoter_recognizer_file(const spoter_recognizer *recognizer) {
  return recognizer ? recognizer->file().c_str() : "";
}

const char *spoter_recognizer_onnxruntime(const spoter_recognizer *recognizer) {
  return recognizer ? recognizer->onnxruntime().c_str() : "";
}

size_t spoter_recognizer_max_frames(const spoter_recognizer *recognizer) {
  return recognizer ? static_cast<size_t>(recognizer->contract().max_frames) : 0;
}

size_t spoter_recognizer_max_batch(const spoter_recognizer *recognizer) {
  return recognizer ? static_cast<size_t>(recognizer->contract().max_batch) : 0;
}

size_t spoter_recognizer_label_count(const spoter_recognizer *recognizer) {
  return recognizer ? recognizer->contract().labels.size() : 0;
}

spoter_label spoter_recognizer_label(const spoter_recognizer *recognizer, size_t index) {
  if (index >= spoter_recognizer_label_count(recognizer)) return {"", "", "", ""};
  const auto &label = recognizer->contract().labels[index];
  return {label.name.c_str(), label.gloss.c_str(), label.bengali.c_str(), label.romanised.c_str()};
}

spoter_status spoter_predict(const spoter_recognizer *recognizer, const spoter_clip *clip,
                             spoter_prediction *prediction, float *logits) {
  return spoter_predict_many(recognizer, clip, 1, prediction, logits);
}

spoter_status spoter_predict_many(const spoter_recognizer *recognizer, const spoter_clip *clips, size_t count,
                                  spoter_prediction *predictions, float *logits) {
  return guarded([&] {
    need(recognizer, "recognizer");
    if (count == 0) return;
    need(clips, "clips");
    need(predictions, "predictions");
    recognizer->predict(clips, count, predictions, logits);
  });
}

spoter_status spoter_infer(const spoter_recognizer *recognizer, const float *poses, const int32_t *lengths,
                           size_t batch, size_t frames, float *logits) {
  return guarded([&] {
    need(recognizer, "recognizer");
    recognizer->infer(poses, lengths, batch, frames, logits);
  });
}

spoter_status spoter_verify(const char *path, const spoter_options *options, spoter_replay *replay) {
  return guarded([&] {
    need(path, "path");
    need(replay, "replay");
    *replay = spoter::detail::verify(path, options_from(options));
  });
}

spoter_status spoter_landmarker_create(const char *path, const spoter_options *options,
                                       spoter_landmarker **landmarker) {
  return guarded([&] {
    need(landmarker, "landmarker");
    *landmarker = nullptr;
    need(path, "path");
    const Options given = options_from(options);
    *landmarker = new spoter_landmarker(path, given.engine, given.threads);
  });
}

void spoter_landmarker_destroy(spoter_landmarker *landmarker) { delete landmarker; }

spoter_status spoter_landmarker_reset(spoter_landmarker *landmarker) {
  return guarded([&] {
    need(landmarker, "landmarker");
    landmarker->reset();
  });
}

spoter_status spoter_landmarker_accept(spoter_landmarker *landmarker, const uint8_t *rgb, size_t height, size_t width,
                                       size_t stride, double t_ms, float *landmarks) {
  return guarded([&] {
    need(landmarker, "landmarker");
    landmarker->accept(rgb, height, width, stride, t_ms, landmarks);
  });
}

int spoter_landmarker_persons(const spoter_landmarker *landmarker) { return landmarker ? landmarker->persons() : 0; }

const char *spoter_landmarker_sha256(const spoter_landmarker *landmarker) {
  return landmarker ? landmarker->sha256().c_str() : "";
}

spoter_status spoter_landmarker_verify(const char *path, const spoter_options *options,
                                       spoter_landmarker_replay *replay) {
  return guarded([&] {
    need(path, "path");
    need(replay, "replay");
    const Options given = options_from(options);
    *replay = spoter::detail::replay_landmarker(path, given.engine, given.threads);
  });
}

spoter_status spoter_stream_create(const spoter_recognizer *recognizer, const char *gate, const char *settings,
                                   spoter_stream **stream) {
  return guarded([&] {
    need(stream, "stream");
    *stream = nullptr;
    need(recognizer, "recognizer");
    *stream = new spoter_stream(*recognizer, gate, settings);
  });
}

void spoter_stream_destroy(spoter_stream *stream) { delete stream; }

spoter_status spoter_stream_reset(spoter_stream *stream) {
  return guarded([&] {
    need(stream, "stream");
    stream->reset();
  });
}

spoter_status spoter_stream_push(spoter_stream *stream, int signing) {
  return guarded([&] {
    need(stream, "stream");
    stream->push(signing != 0);
  });
}

spoter_status spoter_stream_accept_landmarks(spoter_stream *stream, const float *landmarks, double t_ms, size_t dropped,
                                             int persons) {
  return guarded([&] {
    need(stream, "stream");
    stream->accept(landmarks, t_ms, dropped, persons);
  });
}

spoter_status spoter_stream_flush(spoter_stream *stream) {
  return guarded([&] {
    need(stream, "stream");
    stream->flush();
  });
}

spoter_status spoter_stream_next_event(spoter_stream *stream, spoter_event *event) {
  return guarded([&] {
    need(stream, "stream");
    need(event, "event");
    *event = {};
    if (const auto *found = stream->next_event()) *event = found->raw();
  });
}

}  // extern "C"
