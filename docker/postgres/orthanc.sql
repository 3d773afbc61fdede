-- Run by the image once, when its volume is empty: the index of the profiles with several Orthancs.
CREATE DATABASE orthanc OWNER isocenter;
