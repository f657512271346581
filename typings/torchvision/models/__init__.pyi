from . import resnet as resnet
from . import segmentation as segmentation
