"""The words that the rule-based judge knows: base forms, lower case."""


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


ANIMALS = _words("""
    animal ant antelope bear bee bird boar buffalo bull butterfly calf camel cat cheetah chick chicken cow crab
    crane crocodile deer dog dolphin donkey dragonfly duck eagle elephant fish flamingo fly foal fox frog
    giraffe goat goose gorilla hamster hawk hedgehog hen horse insect jellyfish kangaroo kitten koala lamb
    leopard lion lizard lobster meerkat mole monkey moose mouse octopus ostrich otter owl panda parrot peacock
    pelican penguin pig pigeon pony puppy rabbit raccoon rat raven rhino rodent rooster sea-lion seagull seal
    shark sheep snail snake sparrow spider squirrel stork swan tiger tortoise turkey turtle whale wolf worm
    zebra
""")
PEOPLE = _words("""
    acrobat actor actress artist athlete baby ballerina barista baseballer boxer boy businessman businesswoman
    carpenter cat-walker chef child climber clown couple cyclist dancer daughter doctor driver farmer father
    fireman fisherman friend gardener girl grandmother gymnast hand hiker human jogger juggler kid lady man
    model mother musician nurse painter pedestrian people person photographer pianist player policeman rider runner
    sailor scientist singer skater skateboarder skier snowboarder soldier son student surfer swimmer teacher
    teenager tourist trainer violinist waiter walker woman worker
""")
THINGS = _words("""
    aeroplane airplane ball balloon basketball bicycle bike boat box bus car carriage cart crate cube cup drone
    excavator ferry football helicopter lorry motorbike motorcycle pendulum plane puppet robot rocket scooter
    ship skateboard sledge sphere taxi top toy tractor train tram truck van vehicle wheel yo-yo
""")
SUBJECTS = ANIMALS | PEOPLE | THINGS

UNCOUNTABLE = _words("""
    bokeh bubble cloud crowd dust fire firework flame flock foam fog foliage glitter grass ink lava leaf light
    liquid mist ocean particle rain river sand school sea sky smoke snow snowflake spark steam stream
    sunset swarm text traffic water waterfall wave wheat
""")

SELF_MOTIONS = _words("""
    accelerate approach bark bend bite blink bounce box brush cartwheel carry catch chase chew chop clap climb
    clean come cook crawl cross cut cycle dance dig dive dribble drink drive eat exercise fall feed fight fly
    follow gallop gesture glide go graze groom hit hop hug hurry ice-skate jog juggle jump kick kiss knead knit
    laugh lean leap lick lift look march move nod paint pass peck pedal perform pick play point pour pounce
    practise prance press pull push race raise reach ride roll rotate row run sail scratch shake sing sip sit
    skate skateboard ski slide smile sniff speak spin sprint stand step stir stretch stride stroll surf survey
    swim swing talk throw travel trot tumble turn twirl type wag walk wander watch wave wiggle work write yawn
""")
DRIVEN_MOTIONS = _words("""
    billow blow drift drip flap flicker flow flutter gush ripple rustle sparkle splash stream sway swirl trickle
    waft
""")
CAMERA_MOTIONS = _words("""
    aerial dolly flyover hyperlapse orbit pan panning panorama timelapse time-lapse tracking-shot zoom zooming
""")
STILL = _words("frozen motionless photo photograph still stationary static")
PLURALS = {
    "children": "child", "feet": "foot", "fish": "fish", "geese": "goose", "leaves": "leaf", "men": "man",
    "mice": "mouse", "oxen": "ox", "people": "people", "sheep": "sheep", "wolves": "wolf", "women": "woman",
    "calves": "calf",
}  # fmt: skip
PAST = {
    "ran": "run", "swam": "swim", "flew": "fly", "fell": "fall", "ate": "eat", "drove": "drive", "rode": "ride",
    "spun": "spin", "swung": "swing", "went": "go", "came": "come", "sang": "sing", "sat": "sit", "stood": "stand",
    "threw": "throw", "caught": "catch", "leapt": "leap", "drank": "drink", "dug": "dig", "lying": "lie",
}  # fmt: skip
