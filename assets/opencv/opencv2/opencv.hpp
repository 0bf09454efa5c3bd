// Stands in for OpenCV's umbrella header: the two modules that FFCV's extension includes it for.
#pragma once
#include <opencv2/core.hpp>
#include <opencv2/imgproc.hpp>
