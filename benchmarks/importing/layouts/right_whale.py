"""North Atlantic right whales from the air, as NOAA's competition of 2015 published them."""

from functools import cache

from whalebench.benchmarks.importing.layouts import annotated, published
from whalebench.benchmarks.importing.layouts.layout import LaidOut, Layout, LayoutOptions
from whalebench.benchmarks.importing.layouts.published import Cells, find
from whalebench.benchmarks.importing.sources import Source

COUNTS = {"photos": 4_544, "individuals": 447, "individuals with one photo": 24}
BOXES = ("train_with_annotations_vinh.csv", "whale_faces_Vinh.json", "train_with_annotations.csv")
POINTS = {"bonnet": ("bonnet_tip_x", "bonnet_tip_y"), "blowhead": ("blowhead_x", "blowhead_y")}
LISTS = {"bonnet": "points1.json", "blowhead": "points2.json"}


def read(source: Source, options: LayoutOptions) -> LaidOut:
    """The photos of train.csv with the annotations that lie beside it; raises WhalebenchError without it.

    The photos of the test, turned and cropped copies among them, are not there: nothing published names them.
    """
    published.refuse_columns(options, "right-whale")
    labels = published.read_labels(
        source, ("Image", "whaleID"), options, species=options.species or "north_atlantic_right_whale"
    )
    photos, notes = published.photo_names(source, labels, "imgs", options)
    boxes, of_boxes = published.box_file(source, options, BOXES, "imgs")
    sizes = cache(lambda: annotated.sizes_of(source, photos))
    box = annotated.read_boxes(source, boxes, sizes) if boxes else {}
    points = {} if published.is_cropped(options, "imgs") else _points(source)
    marks, of_sizes = annotated.fitting(published.merged(labels, box, points), sizes())
    notes = [*published.count_notes(labels, COUNTS), *notes, *of_boxes, *of_sizes]
    return LaidOut(published.lay_out(labels, photos, marks), tuple(notes), "NOAARightWhale")


def _points(source: Source) -> Cells:
    """Bonnet and blowhead of the table, or of the two lists that it was made of."""
    if name := find(source, "train_with_points.csv"):
        return annotated.read_points(source, name, POINTS)
    points: Cells = {}
    for landmark, file in LISTS.items():
        if name := find(source, file):
            for image, marks in annotated.read_marks(source, name).items():
                points.setdefault(image, {}).update(annotated.point(landmark, *marks[0]))
    return points


LAYOUT = Layout(
    "right-whale",
    "right whales 2015 (NOAA): train.csv with Image,whaleID, photos in imgs/, boxes and points of heads",
    """\
train.csv
    Image,whaleID
    w_7812.jpg,whale_48813
    w_4598.jpg,whale_09913
imgs/w_7812.jpg, imgs/w_4598.jpg
train_with_annotations_vinh.csv or train_with_annotations.csv, where there is one
    Image,whaleID,x,y,width,height
    w_7812.jpg,whale_48813,1411.3,985.3,506,506
train_with_points.csv, where there is one
    Image,whaleID,bonnet_tip_x,bonnet_tip_y,blowhead_x,blowhead_y
    w_7812.jpg,whale_48813,1668.2,1370.1,1647.8,1108.7
or points1.json (bonnet) and points2.json (blowhead)
""",
    read,
    takes_columns=True,
)
