#pragma once

/// The library's version, by the rules of semantic versioning. The build reads it from here.
#define MISTRAL_VERSION_MAJOR 0
#define MISTRAL_VERSION_MINOR 1
#define MISTRAL_VERSION_PATCH 0

/// The same as one number that the preprocessor can compare: 1.2.3 is 10203.
#define MISTRAL_VERSION (MISTRAL_VERSION_MAJOR * 10000 + MISTRAL_VERSION_MINOR * 100 + MISTRAL_VERSION_PATCH)
