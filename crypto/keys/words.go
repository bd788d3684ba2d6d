package keys

import "crypto/sha256"

// FingerprintWordCount is the number of words of FingerprintWords: 64 bits.
const FingerprintWordCount = 8

// FingerprintWords turns a public key, in whatever encoding its owner signs or
// publishes it, into eight words for two people to read to each other: the first
// eight bytes of SHA-256(key), one word per byte. 64 bits are enough for a
// comparison that both sides make at the time of the exchange; what is compared
// later, or by machine, uses the whole hash.
func FingerprintWords(key []byte) []string {
	h := sha256.Sum256(key)
	list := wordList()
	words := make([]string, FingerprintWordCount)
	for i := range words {
		words[i] = list[h[i]]
	}
	return words
}

// wordList gives each byte its word. Any two words differ in three letters or
// more and within their first three, so that a misheard word is not another word
// and three letters are enough to type one. The list is part of the protocol:
// both sides must show the same words, so it never changes.
func wordList() *[256]string {
	return &[256]string{
		"acid", "acorn", "airport", "album", "almond", "alphabet", "amber", "angle",
		"apron", "aquarium", "atlas", "attic", "autumn", "avocado", "badge", "bamboo",
		"banjo", "barrel", "basement", "beaver", "bench", "berry", "bicycle", "biscuit",
		"blanket", "blossom", "bonfire", "bottle", "bracelet", "bronze", "bucket", "buffalo",
		"bungalow", "butter", "cabin", "cactus", "camel", "canoe", "carpet", "castle",
		"cathedral", "cement", "champion", "chimney", "cinema", "circus", "citadel", "cliff",
		"clover", "cobra", "coconut", "coffee", "column", "concert", "copper", "corridor",
		"cottage", "cousin", "cradle", "crimson", "cruise", "crystal", "cupboard", "curtain",
		"cushion", "cyclone", "daisy", "dancer", "daughter", "deckchair", "delta", "dentist",
		"desert", "diamond", "dinosaur", "district", "dolphin", "domino", "donkey", "dragon",
		"dream", "drummer", "dusty", "dynamo", "earth", "echo", "eclipse", "elbow",
		"elephant", "emerald", "emperor", "engine", "envelope", "escape", "evening", "exit",
		"eyebrow", "fabric", "falcon", "famous", "farmer", "feather", "festival", "fiction",
		"fiddle", "finger", "flamingo", "flute", "foghorn", "forest", "fossil", "fountain",
		"fridge", "frozen", "funnel", "furnace", "galaxy", "garden", "gazelle", "general",
		"geyser", "ghost", "giant", "glacier", "goblin", "goldfish", "gorilla", "grape",
		"grocery", "guardian", "guitar", "gymnast", "halibut", "harbor", "haystack", "hedgehog",
		"helmet", "hexagon", "hippo", "holiday", "hospital", "hotel", "house", "humble",
		"hydrant", "iceberg", "idea", "igloo", "image", "indigo", "insect", "island",
		"ivory", "jaguar", "jelly", "jigsaw", "kangaroo", "kitchen", "kiwi", "knight",
		"koala", "ladder", "lagoon", "lantern", "lemon", "library", "lizard", "lobster",
		"lotus", "machine", "magnet", "marble", "meadow", "mermaid", "mirror", "mosaic",
		"muffin", "museum", "napkin", "narrow", "needle", "nephew", "nugget", "nurse",
		"oasis", "ocean", "office", "olive", "onion", "opera", "orange", "orchid",
		"ostrich", "oxygen", "palace", "panda", "pebble", "pencil", "pillow", "pirate",
		"popcorn", "pretzel", "puzzle", "pyramid", "quartz", "queen", "quilt", "rabbit",
		"radar", "raven", "recipe", "ribbon", "robot", "rubber", "saturn", "scarf",
		"school", "silver", "skate", "slipper", "snail", "soldier", "spider", "squirrel",
		"stamp", "sugar", "swan", "syrup", "tablet", "teapot", "temple", "thunder",
		"toast", "tomato", "tractor", "trumpet", "tulip", "turtle", "twig", "umbrella",
		"unicorn", "valley", "vampire", "violin", "volcano", "vulture", "waffle", "walnut",
		"wasp", "whale", "whistle", "window", "wolf", "yacht", "yogurt", "zigzag",
	}
}
