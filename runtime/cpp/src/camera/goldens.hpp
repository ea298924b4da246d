// The landmarker's goldens: one made picture, and each graph's answers to it, replayed on a device.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "spoter/spoter.h"

namespace spoter::detail {

spoter_landmarker_replay replay_landmarker(const std::string &path, const char *engine, int threads);

// The picture, 240 x 320 x 3: numpy's default_rng(17) makes it, so no file holds it.
std::vector<uint8_t> golden_picture();

}  // namespace spoter::detail
