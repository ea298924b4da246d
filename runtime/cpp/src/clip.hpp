// The checks on one clip of landmarks, and its decision "sign" or "no sign".
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "bundle.hpp"
#include "spoter/spoter.h"

namespace spoter::detail {

// Returns the clip's values, shortened to `max_frames` if `resample`; throws Error.
std::vector<float> checked_clip(const spoter_clip &clip, size_t max_frames, bool resample, const std::string &where);

// Throws Error for an infinity or a coordinate beyond the limit; NaN passes (not detected). A row has `columns` values
// in `rows` rows of each clip; frames from a clip's length on are padding and not looked at.
void check_batch(const float *poses, const int32_t *lengths, size_t batch, size_t frames);

// The same for one frame of landmarks.
void check_frame(const float *landmarks, const std::string &where);

bool detected(const float *point);  // not where it is exactly (0, 0), or NaN in x or y

double hand_share(const std::vector<float> &clip);  // the share of frames in which a point of a hand was detected

std::vector<double> softmax(const float *logits, size_t count, double temperature = 1);

struct Decision {
  double probability;
  int is_sign;
  std::string reason;
};

Decision decide(const float *logits, const std::vector<Label> &labels, const std::vector<float> &clip,
                const std::optional<Abstention> &rule);

}  // namespace spoter::detail
