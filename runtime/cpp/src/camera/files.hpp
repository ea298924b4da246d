// The landmarker's folder: its ONNX files, their hashes, and where it lies.
#pragma once

#include <map>
#include <string>

namespace spoter::detail {

inline constexpr const char *landmarker_graphs[] = {"pose_detection", "pose", "recrop", "hand"};

struct LandmarkerFiles {
  std::string folder, sha256;                 // sha256 names this landmarker
  std::map<std::string, std::string> hashes;  // file name → sha256
  std::string fix;                            // of a file that is missing or was changed

  std::string read(const std::string &name) const;  // after comparing it with its hash; throws Error
};

// Reads what a landmarker's folder, or that of a bundle, says of itself; throws Error.
LandmarkerFiles read_landmarker(const std::string &path);

}  // namespace spoter::detail
